"""Where the control channel may be bound."""

import socket
from pathlib import Path

import pytest
import zmq.auth

from scheduler_svc.channel.endpoint import CurveServer, EndpointRefused, prepare_endpoint


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def test_missing_directory_is_made_for_this_user_alone(directory: Path) -> None:
    assert prepare_endpoint(f"ipc://{directory}/new/s", None) is None
    assert (directory / "new").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o1777])
def test_directory_that_others_can_write_is_refused(directory: Path, mode: int) -> None:
    (directory / "open").mkdir()
    (directory / "open").chmod(mode)
    with pytest.raises(EndpointRefused, match=f"mode {mode:04o}"):
        prepare_endpoint(f"ipc://{directory}/open/s", None)


def test_stale_socket_is_removed(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(directory / "s"))
    prepare_endpoint(f"ipc://{directory}/s", None)
    assert not (directory / "s").exists()


def test_socket_that_somebody_listens_on_is_refused_and_kept(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(directory / "s"))
        live.listen()
        with pytest.raises(EndpointRefused, match="another process listens"):
            prepare_endpoint(f"ipc://{directory}/s", None)
    assert (directory / "s").exists()


def test_file_that_is_no_socket_is_refused_and_kept(directory: Path) -> None:
    (directory / "s").write_text("precious")
    with pytest.raises(EndpointRefused, match="is no socket"):
        prepare_endpoint(f"ipc://{directory}/s", None)
    assert (directory / "s").read_text() == "precious"


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("ipc://", "path of a file"),
        ("ipc://@abstract", "path of a file"),
        ("ipc://*", "path of a file"),
        (f"ipc:///tmp/{'x' * 120}/s", "longer than"),
        ("ipc:///proc/nowhere/s", "ipc:///proc/nowhere/s"),
        ("tcp://127.0.0.1:1", "CURVE"),
        ("inproc://x", "allowed are"),
        ("", "allowed are"),
    ],
)
def test_unsafe_endpoint_is_refused_with_the_reason(endpoint: str, reason: str) -> None:
    with pytest.raises(EndpointRefused, match=reason):
        prepare_endpoint(endpoint, None)


def test_keys_are_read_from_a_directory_of_workers(directory: Path) -> None:
    _, secret = zmq.auth.create_certificates(directory, "server")
    (directory / "workers").mkdir()
    allowed = {zmq.auth.load_certificate(zmq.auth.create_certificates(directory / "workers", n)[0])[0] for n in "ab"}
    keys = prepare_endpoint("tcp://127.0.0.1:1", CurveServer(Path(secret), directory / "workers"))
    assert keys is not None
    assert keys.allowed == allowed


def test_key_files_that_can_not_serve_are_refused(directory: Path) -> None:
    public, secret = map(Path, zmq.auth.create_certificates(directory, "server"))
    (directory / "none").mkdir()
    (directory / "bad").write_text("no key")
    for curve, reason in (
        (CurveServer(public, public), "holds no secret key"),
        (CurveServer(secret, directory / "none"), r"no \*.key file"),
        (CurveServer(directory / "missing", public), "can't read a key"),
        (CurveServer(directory / "bad", public), "can't read a key"),
    ):
        with pytest.raises(EndpointRefused, match=reason):
            prepare_endpoint("tcp://127.0.0.1:1", curve)
