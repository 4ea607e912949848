"""Certificates are judged at start: what can't serve is refused in a line that names the option."""

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from scheduler_svc.security.tls import TlsFiles, TlsRefused
from tests.support.security.certificates import Authority, Pair, private_key_pem


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("server")


def refusal(cert: Path, key: Path, client_ca: Path | None = None) -> str:
    with pytest.raises(TlsRefused) as refused:
        TlsFiles(cert, key, client_ca).read()
    return str(refused.value)


def test_files_that_serve_are_given_as_they_are(authority: Authority, pair: Pair) -> None:
    content = TlsFiles(pair.cert, pair.key, authority.cert).read()
    files = (pair.cert.read_bytes(), pair.key.read_bytes(), authority.cert.read_bytes())
    assert (content.cert, content.key, content.client_ca) == files
    assert TlsFiles(pair.cert, pair.key).read().client_ca is None


def test_a_missing_file_is_refused_by_its_option(pair: Pair, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    reason = f"got {nothing}, which can't be read: No such file or directory"
    assert refusal(nothing, pair.key) == f"--tls-cert: {reason}"
    assert refusal(pair.cert, nothing) == f"--tls-key: {reason}"
    assert refusal(pair.cert, pair.key, nothing) == f"--tls-client-ca: {reason}"


def test_a_key_of_another_certificate_is_refused(authority: Authority, pair: Pair) -> None:
    other = authority.issue("other")
    assert refusal(pair.cert, other.key) == (
        f"--tls-key: got {other.key}, which is not the key of --tls-cert {pair.cert}"
    )


def test_files_in_each_others_place_are_refused(pair: Pair) -> None:
    assert refusal(pair.key, pair.cert).startswith(f"--tls-cert: got {pair.key}, allowed is a file of certificates")
    assert refusal(pair.cert, pair.cert).startswith(f"--tls-key: got {pair.cert}, allowed is a file with a private key")
    assert refusal(pair.cert, pair.key, pair.key).startswith(f"--tls-client-ca: got {pair.key}, allowed is a file of")


def test_a_damaged_certificate_is_refused(pair: Pair) -> None:
    pair.cert.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    assert refusal(pair.cert, pair.key).startswith(f"--tls-cert and --tls-key: got {pair.cert} and {pair.key}, which")


def test_a_key_with_a_password_is_refused_without_asking_for_it(pair: Pair) -> None:
    pair.key.write_bytes(private_key_pem(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    assert refusal(pair.cert, pair.key) == (
        f"--tls-key: got {pair.key}, which is encrypted; allowed is one without a password"
    )


def test_versions_of_tls_that_are_broken_are_not_spoken(pair: Pair) -> None:
    assert TlsFiles(pair.cert, pair.key).read().context.minimum_version is ssl.TLSVersion.TLSv1_2
