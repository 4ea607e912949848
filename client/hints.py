"""What helps when nobody answers, or nobody is let in: the one place for such advice. Knows no channel and no command.

An error says what is wrong and what helps, as a program reads it. A command adds what its own options can do about it.
"""

import os
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from qllm.client.errors import QllmError, Unauthenticated, Unreachable

START_ONE = "start one with `qllm-scheduler --model DIR --spawn-worker`"

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


def is_not_connected(details: str) -> bool:
    """Tells a call that reached nobody, by gRPC's words for it, from one that the service ended."""
    return _NOT_CONNECTED.search(details) is not None


def unreachable(target: str, details: str, *, speaks_tls: bool, is_local: bool) -> Unreachable:
    """Returns the error that says why nobody answers and what helps.

    Args:
        target: Where the service should be, as gRPC takes it.
        details: gRPC's words.
        speaks_tls: Whether the client speaks TLS.
        is_local: Whether the target is on this machine, which is reached without a proxy.
    """
    proxy = "" if is_local else proxy_in_between(target)
    found = _diagnosis(details, speaks_tls=speaks_tls)
    error = Unreachable(f"no service answers at {target}: {found.cause}{proxy}{found.helps}")
    error.option = found.option
    return error


def proxy_in_between(target: str) -> str:
    """Says which proxy the environment puts in front of another machine; empty for none."""
    # Slow to import, and seldom needed. `proxy_bypass` asks the system instead on macOS and
    # Windows, which gRPC does not.
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

    host = target.rsplit("/", 1)[-1]
    exempt = next(filter(None, map(os.environ.get, _EXEMPTION_VARIABLES)), "")
    name = next((name for name in _PROXY_VARIABLES if os.environ.get(name)), None)
    if name is None or proxy_bypass_environment(host, {"no": exempt}):
        return ""
    shown = _host_and_port(os.environ[name]) or "one that cannot be read"
    return f" (through the proxy {shown}, which the environment's {name} names; no_proxy exempts hosts)"


def told(error: QllmError) -> str:
    """Returns the line in which a command says an error, with what its options can do about it."""
    return f"{error.status.name}: {error}{_option_that_helps(error)}"


class _Diagnosis(NamedTuple):
    """Why nobody answers, what helps, and what a command's options can do about it."""

    cause: str
    helps: str = ""
    option: str = ""


def _diagnosis(details: str, *, speaks_tls: bool) -> _Diagnosis:
    if speaks_tls and (cause := _tls_cause(details)):
        return _Diagnosis(cause)
    if _IS_HTTP.search(details):
        return _Diagnosis(
            "that is an HTTP port; gRPC is on another one",
            ", which qllm-scheduler calls --grpc-port: 50051 unless it was told otherwise",
            "; give it with --address HOST:PORT",
        )
    if _IS_STRANGE in details:
        return _Diagnosis("what listens there does not speak gRPC", option="; give --address HOST:PORT")
    if _IS_CLOSED in details:
        return _Diagnosis("it closes the connection; if it speaks TLS, give --tls-ca")
    match = _LAST_CAUSE.search(details)
    return _Diagnosis(match["cause"] if match else details, f"; {START_ONE}", " or give --address HOST:PORT")


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


def _host_and_port(url: str) -> str | None:
    """Returns where a proxy is, without the password that its URL may hold; None if the URL makes no sense."""
    try:
        proxy = urlsplit(url)
        host, port = proxy.hostname, proxy.port
    except ValueError:
        return None
    return f"{host}:{port}" if host else None


def _option_that_helps(error: QllmError) -> str:
    if isinstance(error, Unreachable):
        return error.option
    if isinstance(error, Unauthenticated):
        return " (give it with --api-key KEY, or in the environment as QLLM_API_KEY)"
    if error.retry_after_s is not None:
        return f" (try again in {error.retry_after_s:.1f} s)"
    return ""
