"""Owns the ROUTER socket of the control channel, on the running event loop, and never blocks it.

Delivers whole messages with the identity of their sender, and says when some connection broke; whose that was, and what
a frame means, is the link's business. The plain socket is driven through its file descriptor, which costs much less
than zmq.asyncio. Source: https://zguide.zeromq.org, chapter 3, and api.zeromq.org/4-3:zmq-getsockopt (ZMQ_FD: readiness
is edge-triggered and any call may consume it, so every call is followed by a look at ZMQ_EVENTS).
"""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import zmq
from qllm.protocol import MAX_FRAME_BYTES
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import parse_monitor_message

from scheduler_svc.channel.endpoint import CurveKeys, EndpointRefused

_log = logging.getLogger(__name__)

_MAX_QUEUED_MESSAGES = 10_000
# A worker whose steps are short answers while its last answer is dealt with; readers must have a turn all the same.
_MAX_MESSAGES_A_TURN = 1
_MAX_MESSAGES_AT_ONCE = 128
_LINGER_MS = 200
_ZAP_DOMAIN = "qllm"
_DENIED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


class PeerGone(Exception):
    """The frame could not be handed over: the peer is not connected, or takes nothing any more."""


class _AllowList:
    """Says to pyzmq's authenticator which public keys may connect."""

    def __init__(self, allowed: frozenset[bytes]) -> None:
        self._allowed = allowed

    def callback(self, domain: str, key: bytes) -> bool:
        """Returns whether the public key, in Z85, is allowed."""
        if key not in self._allowed:
            _log.warning("peer_denied domain=%s public_key=%s reason=not_in_allow_list", domain, key.decode())
        return key in self._allowed


class Router:
    """A bound ROUTER.

    Args:
        endpoint: Where to bind; already prepared.
        keys: CURVE keys, or None for a socket that the file system protects.
        silence_limit_s: Seconds without any sign from a peer's ZeroMQ after which its connection is closed.
        on_message: Called with the parts of each message, the sender's identity first.
        on_disconnect: Called when a connection of some peer broke.
    """

    def __init__(
        self,
        endpoint: str,
        keys: CurveKeys | None,
        *,
        silence_limit_s: float,
        on_message: Callable[[list[bytes]], None],
        on_disconnect: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._keys = keys
        self._silence_limit_ms = max(1000, int(silence_limit_s * 1000))
        self._on_message = on_message
        self._on_disconnect = on_disconnect
        self._context = zmq.Context()
        self._authenticator: ThreadAuthenticator | None = None
        self._closed = False

    def open(self) -> None:
        """Binds the socket and starts to deliver; raises EndpointRefused if the endpoint can't be bound."""
        self._loop = asyncio.get_running_loop()
        self._socket = self._context.socket(zmq.ROUTER)
        self._configure()
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | _DENIED)
        try:
            self._socket.bind(self._endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise EndpointRefused(f"control endpoint {self._endpoint}: {error.strerror}") from error
        if self._endpoint.startswith("ipc://"):
            Path(self._endpoint.removeprefix("ipc://")).chmod(0o600)
        self._loop.add_reader(self._socket.FD, self._take_turn)
        self._loop.add_reader(self._monitor.FD, self._drain_monitor)
        # A descriptor signals only what comes after a first look.
        self._loop.call_soon(self._take_turn)
        self._loop.call_soon(self._drain_monitor)

    @property
    def bound_endpoint(self) -> str:
        """Where the socket is bound, with the real port when port 0 was asked for."""
        endpoint = self._socket.getsockopt(zmq.LAST_ENDPOINT)
        return endpoint.rstrip(b"\0").decode() if isinstance(endpoint, bytes) else str(endpoint)

    def _configure(self) -> None:
        sock = self._socket
        sock.router_mandatory = True
        sock.router_handover = True
        sock.maxmsgsize = MAX_FRAME_BYTES
        sock.linger = _LINGER_MS
        sock.sndhwm = sock.rcvhwm = _MAX_QUEUED_MESSAGES
        sock.heartbeat_ivl = self._silence_limit_ms // 4
        sock.heartbeat_timeout = self._silence_limit_ms
        if self._keys is not None:
            self._authenticator = ThreadAuthenticator(self._context, log=_log)
            allow_list = _AllowList(self._keys.allowed)
            self._authenticator.configure_curve_callback(_ZAP_DOMAIN, credentials_provider=allow_list)
            self._authenticator.start()
            sock.curve_server = True
            sock.curve_publickey, sock.curve_secretkey = self._keys.public, self._keys.secret
            sock.zap_domain = _ZAP_DOMAIN.encode()
            sock.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def send(self, identity: bytes, frames: Sequence[bytes]) -> None:
        """Hands frames over for the peer as one message, and never waits; raises PeerGone if that can't be done now."""
        try:
            self._socket.send_multipart([identity, *frames], zmq.DONTWAIT)
        except zmq.Again:
            raise PeerGone(f"it left {_MAX_QUEUED_MESSAGES} messages untaken") from None
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            raise PeerGone("its connection is closed") from None

    def check_readable(self) -> None:
        """Makes sure that messages are delivered whose signal a send has consumed; call it after sending."""
        if int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            self._loop.call_soon(self._take_turn)

    def drain(self) -> None:
        """Delivers the messages that wait, and goes on later when there are very many."""
        self._deliver(_MAX_MESSAGES_AT_ONCE)

    def _take_turn(self) -> None:
        self._deliver(_MAX_MESSAGES_A_TURN)

    def _deliver(self, max_messages: int) -> None:
        try:
            for _ in range(max_messages):
                if self._closed:
                    return
                self._on_message(self._socket.recv_multipart(zmq.DONTWAIT))
        except zmq.Again:
            return
        finally:
            if not self._closed:
                self.check_readable()

    def _drain_monitor(self) -> None:
        if self._closed:
            return
        broken = False
        with contextlib.suppress(zmq.Again):
            while True:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.DONTWAIT))
                if event["event"] & _DENIED:
                    _log.warning("peer_denied endpoint=%s event=%s", self._endpoint, zmq.Event(event["event"]).name)
                broken = broken or event["event"] == zmq.EVENT_DISCONNECTED
        if broken:
            self._on_disconnect()

    def close(self) -> None:
        """Ends delivery and closes the socket; frames handed over before get a moment to leave."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket.FD)
        self._loop.remove_reader(self._monitor.FD)
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=_LINGER_MS)
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.term()
