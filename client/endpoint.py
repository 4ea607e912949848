"""Owns where a service listens: a channel's target and options, and which error a call there ended with."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from qllm.addresses import read_target
from qllm.client.errors import QllmError, error_from_rpc
from qllm.client.hints import is_not_connected, unreachable

MAX_RECEIVE_BYTES = 16 * 2**20


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
        if rpc_error.code() is grpc.StatusCode.UNAVAILABLE and is_not_connected(details):
            return unreachable(self.target, details, speaks_tls=self._speaks_tls, is_local=self.is_local)
        return error_from_rpc(rpc_error)
