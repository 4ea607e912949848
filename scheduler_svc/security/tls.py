"""Reads the certificates that a server shows and asks for, and judges them. Knows no protocol but TLS's own.

--tls-cert, --tls-key     what the server shows       (TLS)
--tls-client-ca           whose clients it lets in    (mutual TLS)

Changed files count for connections that begin a second later.
"""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scheduler_svc.security.watched_files import WatchedFiles

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

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(path for path in (self.cert, self.key, self.client_ca) if path is not None)

    def read(self) -> "TlsContent":
        """Returns what the files say; raises TlsRefused if they don't serve."""
        client_ca = None if self.client_ca is None else _read(_CLIENT_CA, self.client_ca)
        return TlsContent(self._context(), _read(_KEY, self.key), _read(_CERT, self.cert), client_ca)

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load_own(context)
        if self.client_ca is not None:
            _load_client_ca(context, self.client_ca)
        return context

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


@dataclass(frozen=True, slots=True)
class TlsContent:
    """What the files say.

    Attributes:
        context: What makes a server of asyncio speak TLS.
        key, cert, client_ca: The bytes of the files, as gRPC takes them.
    """

    context: ssl.SSLContext
    key: bytes
    cert: bytes
    client_ca: bytes | None


class Certificates:
    """The certificates of running servers. Threads may share it.

    Args:
        files: Where they are.
        now_s: Gives a time that only grows, in seconds.

    Raises:
        TlsRefused: They don't serve.
    """

    def __init__(self, files: TlsFiles, now_s: Callable[[], float] = time.monotonic) -> None:
        self._files = WatchedFiles("certificates", files.paths, files.read, TlsRefused)
        self._now_s = now_s

    @property
    def current(self) -> TlsContent:
        """What the files say now; what they said before, if they don't serve now."""
        return self._files.content(self._now_s())


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
