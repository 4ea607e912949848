"""How a client is let in, and whom it trusts: TLS, a certificate of its own, an API key. Knows nothing of addresses."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, cast

import grpc


class AccessRefused(ValueError):
    """Files that can't be used, or an API key that can't be sent; the message says which, and what is wrong."""


class AccessOptions(TypedDict, total=False):
    """Keyword arguments of clients; those that are left out are not needed where the service asks for nothing.

    Attributes:
        tls_ca: File of the certificates in PEM that the service's own must come from; makes the client speak TLS.
        tls_cert: File with the client's own certificate in PEM, where the service asks for one; with `tls_key`.
        tls_key: File with its private key in PEM.
        api_key: The API key.
        insecure: Send the API key to another machine without TLS, where whoever reads along sees it.
    """

    tls_ca: str | Path | None
    tls_cert: str | Path | None
    tls_key: str | Path | None
    api_key: str | None
    insecure: bool


NO_ACCESS = AccessOptions()


@dataclass(frozen=True, slots=True)
class Access:
    """What `AccessOptions` say, judged.

    Raises:
        AccessRefused: Something needed is missing, or the key has characters that can't be sent.
    """

    tls_ca: str | Path | None = None
    tls_cert: str | Path | None = None
    tls_key: str | Path | None = None
    api_key: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise AccessRefused("a client's certificate needs both --tls-cert and --tls-key")
        if self.tls_cert is not None and self.tls_ca is None:
            raise AccessRefused("--tls-cert goes with --tls-ca, which says whom to trust")
        if self.api_key is not None and not _can_be_sent(self.api_key):
            raise AccessRefused("--api-key: allowed are printable ASCII characters without spaces, at least one")

    @property
    def speaks_tls(self) -> bool:
        """Whether the client speaks TLS."""
        return self.tls_ca is not None

    def require_protection(self, *, is_local: bool, speaks_tls: bool) -> None:
        """Raises AccessRefused if the API key would be sent in the clear to another machine without having said so."""
        if self.api_key is not None and not (is_local or speaks_tls or self.insecure):
            raise AccessRefused(
                "--api-key: it would be sent to another machine in the clear; give --tls-ca, or --insecure where "
                "something else keeps others from reading along"
            )

    def open_channel(self, target: str, options: list[tuple[str, int]]) -> grpc.aio.Channel:
        """Returns a channel to the target, whose calls carry the API key; raises AccessRefused for unreadable files."""
        credentials = self._credentials()
        if credentials is None:
            channel = grpc.aio.insecure_channel(target, options=options)
        else:
            channel = grpc.aio.secure_channel(target, credentials, options=options)
        if self.api_key is None:
            return channel
        metadata = (("authorization", f"Bearer {self.api_key}"),)
        return cast(grpc.aio.Channel, _ChannelWithMetadata(channel, metadata))

    def judge(self) -> None:
        """Raises AccessRefused for files that can't be used."""
        self._credentials()

    def ssl_context(self) -> ssl.SSLContext | None:
        """Returns what makes a client of HTTP speak TLS so; None: as it does by itself. Raises AccessRefused."""
        if self.tls_ca is None:
            return None
        self.judge()
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
            if self.tls_cert is not None:
                context.load_cert_chain(self.tls_cert, self.tls_key)
        except ssl.SSLError as error:
            raise AccessRefused(f"--tls-ca, --tls-cert and --tls-key: they can't be used: {error.reason}") from None
        return context

    def _credentials(self) -> grpc.ChannelCredentials | None:
        if self.tls_ca is None:
            return None
        key = None if self.tls_key is None else _read("--tls-key", self.tls_key, b"PRIVATE KEY-----")
        cert = None if self.tls_cert is None else _read("--tls-cert", self.tls_cert, _CERTIFICATE)
        return grpc.ssl_channel_credentials(_read("--tls-ca", self.tls_ca, _CERTIFICATE), key, cert)


class _ChannelWithMetadata:
    """A channel whose methods send metadata with each call.

    gRPC's interceptors would do the same, and change how calls are cancelled.
    """

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self._channel = channel
        self._metadata = metadata

    def unary_unary(self, *method: Any, **codec: Any) -> Callable[..., Any]:
        """Returns the method, as the channel's own; so do the others."""
        return partial(self._channel.unary_unary(*method, **codec), metadata=self._metadata)

    def unary_stream(self, *method: Any, **codec: Any) -> Callable[..., Any]:
        return partial(self._channel.unary_stream(*method, **codec), metadata=self._metadata)

    def stream_unary(self, *method: Any, **codec: Any) -> Callable[..., Any]:
        return partial(self._channel.stream_unary(*method, **codec), metadata=self._metadata)

    def stream_stream(self, *method: Any, **codec: Any) -> Callable[..., Any]:
        return partial(self._channel.stream_stream(*method, **codec), metadata=self._metadata)

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()


_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


def _can_be_sent(api_key: str) -> bool:
    return bool(api_key) and api_key.isascii() and api_key.isprintable() and " " not in api_key


def _read(option: str, path: str | Path, mark: bytes) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise AccessRefused(f"{option}: got {path}, which can't be read: {error.strerror}") from None
    if mark not in content:
        what = "certificates" if mark is _CERTIFICATE else "a private key"
        raise AccessRefused(f"{option}: got {path}, allowed is a file with {what} in PEM")
    return content
