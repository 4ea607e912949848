"""Owns where a service listens: a channel's target and options, and what to say when nobody answers there."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import grpc
from qllm.addresses import read_target

from client.errors import QllmError, Unreachable, error_from_rpc

MAX_RECEIVE_BYTES = 16 * 2**20

# gRPC's words for: there was no connection at all, so that the status is its own and not the service's.
_NOT_CONNECTED = re.compile(
    r"failed to connect to all addresses|errors resolving|DNS resolution failed|name resolution"
)
_LAST_CAUSE = re.compile(r"last error: \w+: (?:(?:ipv4|ipv6|unix)\S*: )?(?P<cause>.*)", re.DOTALL)
_IS_HTTP = re.compile(r"http1\.x|got frame type 80")  # the fourth letter of "HTTP"
_IS_STRANGE = "Expected SETTINGS"
_IS_CLOSED = "Socket closed"
# Of TLS.
_IS_PLAIN = "WRONG_VERSION_NUMBER"
_IS_OTHER_HOST = "Hostname Verification"
_IS_NOT_TRUSTED = re.compile(r"CERTIFICATE_VERIFY_FAILED|BAD_SIGNATURE|certificate signature failure|unable to get")
# In the order in which gRPC looks for them, and those that exempt hosts.
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXEMPTION_VARIABLES = ("no_grpc_proxy", "no_proxy")


class Endpoint:
    """Where a service listens.

    Args:
        address: "host:port", "[IPv6]:port", "unix:path", or another target of gRPC's.
        speaks_tls: Whether the client speaks TLS, for what is said when nobody answers.

    Raises:
        AddressRefused: It is none of these (a ValueError).
    """

    def __init__(self, address: str, *, speaks_tls: bool = False) -> None:
        self._target = read_target(address)
        self._speaks_tls = speaks_tls

    @property
    def target(self) -> str:
        """The address as gRPC takes it."""
        return self._target.name

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return self._target.is_local

    def channel_options(self) -> list[tuple[str, int]]:
        """Returns the options of a channel: a lost service is noticed, and this machine is reached without a proxy."""
        return [
            ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
            ("grpc.enable_http_proxy", 0 if self._target.is_local else 1),
            # A peer that stops answering is noticed within half a minute, while calls run.
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.ping_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 0),
            ("grpc.http2.max_pings_without_data", 0),
            # A service that has just come up is found within a second.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1_000),
        ]

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Raises a call's final status as the error of this package that stands for it."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from None

    def error(self, rpc_error: grpc.aio.AioRpcError) -> QllmError:
        """Returns the error of this package that stands for a call's final status."""
        details = rpc_error.details() or ""
        if rpc_error.code() is grpc.StatusCode.UNAVAILABLE and _NOT_CONNECTED.search(details):
            return Unreachable(f"no service answers at {self.target}: {self._cause(details)}{self._proxy()}")
        return error_from_rpc(rpc_error)

    def _cause(self, details: str) -> str:
        if self._speaks_tls and (cause := _tls_cause(details)):
            return cause
        if _IS_HTTP.search(details):
            return "this looks like an HTTP port; gRPC is at another, which qllm-scheduler calls --grpc-port"
        if _IS_STRANGE in details:
            return "what listens there does not speak gRPC"
        if _IS_CLOSED in details:
            return "it closes the connection; if it speaks TLS, give --tls-ca"
        match = _LAST_CAUSE.search(details)
        return match["cause"] if match else details

    def _proxy(self) -> str:
        """Says which proxy the environment puts in between, if any."""
        if self._target.is_local:
            return ""
        # Slow to import, and seldom needed. `proxy_bypass` asks the system instead on macOS and
        # Windows, which gRPC does not.
        from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

        host = self.target.rsplit("/", 1)[-1]
        exempt = next(filter(None, map(os.environ.get, _EXEMPTION_VARIABLES)), "")
        name = next((name for name in _PROXY_VARIABLES if os.environ.get(name)), None)
        if name is None or proxy_bypass_environment(host, {"no": exempt}):
            return ""
        shown = _host_and_port(os.environ[name]) or "one that cannot be read"
        return f" (through the proxy {shown}, which the environment's {name} names; no_proxy exempts hosts)"


def _host_and_port(url: str) -> str | None:
    """Returns where a proxy is, without the password that its URL may hold; None if the URL makes no sense."""
    try:
        proxy = urlsplit(url)
        host, port = proxy.hostname, proxy.port
    except ValueError:
        return None
    return f"{host}:{port}" if host else None


def _tls_cause(details: str) -> str | None:
    """Says why a service can't be spoken with over TLS; None if that is not the cause."""
    if _IS_PLAIN in details:
        return "it does not speak TLS; leave --tls-ca out"
    if _IS_OTHER_HOST in details:
        return "its certificate is for another host than this address names"
    if _IS_NOT_TRUSTED.search(details):
        return "its certificate does not come from those of --tls-ca"
    if _IS_CLOSED in details:
        return "it closes the connection; if it asks for certificates, give one that it takes: --tls-cert and --tls-key"
    return None
