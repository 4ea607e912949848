"""Reads the certificates that a server shows and asks for, and judges them at start. Knows no protocol but TLS's own.

--tls-cert, --tls-key     what the server shows       (TLS)
--tls-client-ca           whose clients it lets in    (mutual TLS)
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

_CERT, _KEY, _CLIENT_CA = "--tls-cert", "--tls-key", "--tls-client-ca"


class TlsRefused(ValueError):
    """Certificates that can't serve; the message names the option, and says what is wrong."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files in PEM.

    Attributes:
        cert: The server's certificate, and those that lead from it to its root.
        key: Its private key.
        client_ca: Who issues the certificates that clients must show; None: they need show none.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Returns what makes a server of asyncio speak TLS; raises TlsRefused if the files don't serve."""
        for option, path in ((_CERT, self.cert), (_KEY, self.key), (_CLIENT_CA, self.client_ca)):
            if path is not None:
                _read(option, path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load_own(context)
        if self.client_ca is not None:
            _load_client_ca(context, self.client_ca)
        return context

    def contents(self) -> tuple[bytes, bytes, bytes | None]:
        """Returns the bytes of key, certificate and client CA, as gRPC takes them; raises TlsRefused."""
        self.context()
        client_ca = None if self.client_ca is None else _read(_CLIENT_CA, self.client_ca)
        return _read(_KEY, self.key), _read(_CERT, self.cert), client_ca

    def _load_own(self, context: ssl.SSLContext) -> None:
        cert, key = _read(_CERT, self.cert), _read(_KEY, self.key)
        if b"-----BEGIN CERTIFICATE-----" not in cert:
            raise TlsRefused(f"{_CERT}: got {self.cert}, allowed is a file of certificates in PEM")
        if b"PRIVATE KEY-----" not in key:
            raise TlsRefused(f"{_KEY}: got {self.key}, allowed is a file with a private key in PEM")
        try:
            context.load_cert_chain(self.cert, self.key, _no_password)
        except _EncryptedKey:
            raise TlsRefused(f"{_KEY}: got {self.key}, which is encrypted; allowed is one without a password") from None
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise TlsRefused(f"{_KEY}: got {self.key}, which is not the key of {_CERT} {self.cert}") from None
            reason = (error.reason or str(error)).lower().replace("_", " ")
            raise TlsRefused(
                f"{_CERT} and {_KEY}: got {self.cert} and {self.key}, which don't load: {reason}"
            ) from None


class _EncryptedKey(Exception):
    """A key asks for its password."""


def _no_password() -> str:
    """Keeps OpenSSL from asking for a password on the terminal."""
    raise _EncryptedKey


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsRefused(f"{option}: got {path}, which can't be read: {error.strerror}") from None


def _load_client_ca(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise TlsRefused(f"{_CLIENT_CA}: got {path}, allowed is a file of certificates in PEM") from None
    context.verify_mode = ssl.CERT_REQUIRED
