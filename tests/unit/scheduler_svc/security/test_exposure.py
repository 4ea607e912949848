"""What other machines can reach is not served without TLS and API keys, unless somebody says so."""

import socket
from pathlib import Path

import pytest
from qllm.settings import SettingRefused

from scheduler_svc.security.exposure import own_names
from scheduler_svc.settings import Config
from tests.support.security.api_keys import entry, write_keys
from tests.support.security.certificates import Authority, Pair

EVERYBODYS = ("0.0.0.0", "::", "192.0.2.7", "2001:db8::1", "::ffff:192.0.2.7")


def config(**settings: object) -> Config:
    return Config(control_endpoint="ipc:///x", **settings)  # type: ignore[arg-type]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Authority(tmp_path, "ca").issue("server")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return write_keys(tmp_path / "keys.toml", entry("a", "key"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "::ffff:127.0.0.1"])
def test_this_machine_alone_may_be_served_plainly(host: str) -> None:
    config(grpc_host=host, http_host=host, http_port=0, metrics_host=host, metrics_port=0)


@pytest.mark.parametrize("host", EVERYBODYS)
@pytest.mark.parametrize("api", ["grpc", "http"])
def test_other_machines_need_tls_and_keys(api: str, host: str, pair: Pair, keys: Path) -> None:
    where = {f"{api}_host": host, f"{api}_port": 50051}
    tls, with_keys = {"tls_cert": pair.cert, "tls_key": pair.key}, {"api_keys": keys}
    for given, missing in (
        ({}, "--tls-cert and --tls-key and --api-keys"),
        (tls, "--api-keys"),
        (with_keys, "--tls-cert and --tls-key"),
    ):
        with pytest.raises(SettingRefused) as refused:
            config(**where, **given)
        assert str(refused.value).startswith(f"--{api}-host: got ")
        assert f":50051, which other machines can reach; give {missing}, or --insecure" in str(refused.value)
    config(**where, **tls, **with_keys)
    config(**where, insecure=True)


@pytest.mark.parametrize("host", EVERYBODYS)
def test_metrics_are_served_to_other_machines_only_if_somebody_says_so(host: str, pair: Pair, keys: Path) -> None:
    protected = {"tls_cert": pair.cert, "tls_key": pair.key, "api_keys": keys}
    with pytest.raises(SettingRefused, match=r"--metrics-host: got .*:9464, which other machines can reach"):
        config(metrics_host=host, metrics_port=9464, **protected)
    config(metrics_host=host, metrics_port=9464, insecure=True)


def test_a_host_that_nothing_is_served_on_does_not_matter() -> None:
    config(http_host="0.0.0.0", metrics_host="0.0.0.0")


def test_settings_that_need_each_other_are_refused_alone(pair: Pair) -> None:
    with pytest.raises(SettingRefused, match="TLS needs both --tls-cert and --tls-key"):
        config(tls_cert=pair.cert)
    with pytest.raises(SettingRefused, match="TLS needs both --tls-cert and --tls-key"):
        config(tls_key=pair.key)
    with pytest.raises(SettingRefused, match="--tls-client-ca: it goes with --tls-cert and --tls-key"):
        config(tls_client_ca=pair.cert)


def test_files_that_can_not_serve_are_refused_before_anything_is_started(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(SettingRefused, match=r"--tls-key: got .*nothing, which can't be read"):
        config(tls_cert=pair.cert, tls_key=tmp_path / "nothing")
    with pytest.raises(SettingRefused, match=r"--api-keys: got .*nothing, which can't be read"):
        config(api_keys=tmp_path / "nothing")


def test_names_count_where_an_api_is_there_for_this_machine_alone_and_asks_for_no_key() -> None:
    names = own_names("127.0.0.1", ("https://Pages.example:8443",), has_keys=False, is_insecure=False)
    assert names == {socket.gethostname().lower(), "pages.example"}


@pytest.mark.parametrize(
    ("host", "origins", "has_keys", "is_insecure"),
    [
        ("0.0.0.0", (), False, False),
        ("::1", (), True, False),
        ("127.0.0.1", (), False, True),
        ("127.0.0.1", ("*",), False, False),
    ],
)
def test_elsewhere_any_name_will_do(host: str, origins: tuple[str, ...], has_keys: bool, is_insecure: bool) -> None:
    assert own_names(host, origins, has_keys=has_keys, is_insecure=is_insecure) is None
