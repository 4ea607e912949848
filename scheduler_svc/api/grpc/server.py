"""Owns the gRPC server: what it serves, on which address, within which limits, and how it stops."""

import errno
import socket
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from qllm.addresses import join
from qllm.v1 import admin_pb2, admin_pb2_grpc, batches_pb2, batches_pb2_grpc, inference_pb2, inference_pb2_grpc

from scheduler_svc.api.backend import Backend
from scheduler_svc.api.grpc.admin import AdminServicer, Operation
from scheduler_svc.api.grpc.batches import BatchesServicer
from scheduler_svc.api.grpc.credentials import server_credentials
from scheduler_svc.api.grpc.errors import DEFAULT_SLOW_READER_S, ErrorInterceptor
from scheduler_svc.api.grpc.former_names import FORMER_SERVICE_NAMES, add_former_services
from scheduler_svc.api.grpc.health import HealthServicer
from scheduler_svc.api.grpc.inference import InferenceServicer
from scheduler_svc.api.grpc.key_check import KeyInterceptor
from scheduler_svc.api.grpc.reflection import add_reflection
from scheduler_svc.api.listening import Listening
from scheduler_svc.process.descriptors import MOST_CONNECTIONS
from scheduler_svc.security.tls import Certificates

MAX_MESSAGE_BYTES = 4 << 20

SERVICE_NAMES = (
    inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name,
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
    batches_pb2.DESCRIPTOR.services_by_name["BatchesService"].full_name,
    *FORMER_SERVICE_NAMES,
)

# Calls beside the requests on one connection: health, loads, aborts, and requests that are about to be refused.
_OTHER_CALLS = 1024
# A browser's or balancer's idle connection costs a descriptor; clients connect again by themselves.
_IDLE_MS = 600_000
_HANDSHAKE_MS = 15_000

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),  # otherwise two servers share a port and each gets half of the calls
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A client whose machine vanished holds its streams until it is noticed: 20 s of silence and a ping of 5 s.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Clients may look after their connections as often as every 5 s.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # A connection that does not even say that it speaks HTTP/2 is closed; so is one without calls, in the end.
    ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
    ("grpc.max_connection_idle_ms", _IDLE_MS),
    # Others have no age: there is one scheduler, so nothing is gained by moving a client, and no stream may be cut.
)


@dataclass(frozen=True, slots=True)
class GrpcLimits:
    """How much of the service clients may take over gRPC.

    Attributes:
        max_connections: Connections at a time; more are closed as they come.
        slow_reader_s: Seconds after which an answer ends whose caller reads nothing of it.
    """

    max_connections: int = MOST_CONNECTIONS
    slow_reader_s: float = DEFAULT_SLOW_READER_S


DEFAULT_LIMITS = GrpcLimits()


class ApiServer:
    """The public gRPC server.

    Args:
        backend: What it serves.
        operation: What operators are told, and may order.
        listening: Where, and whom it lets in.
        limits: What clients may take.
    """

    def __init__(
        self,
        backend: Backend,
        operation: Operation,
        listening: Listening,
        limits: GrpcLimits = DEFAULT_LIMITS,
    ) -> None:
        self._backend = backend
        self._operation = operation
        self._listening = listening
        self._limits = limits
        self._server: grpc.aio.Server | None = None
        self._health = HealthServicer(backend.generator, SERVICE_NAMES)
        self.port = listening.port

    @property
    def address(self) -> str:
        """The address that is listened on, with the real port once bound."""
        return join(self._listening.host, self.port)

    def bind(self) -> None:
        """Listens; who connects waits until `start`. Raises OSError: the address cannot be had."""
        listening = self._listening
        _try_to_listen(listening.host, listening.port)
        key_check = () if listening.gate is None else (KeyInterceptor(listening.gate),)
        interceptors = (ErrorInterceptor(self._limits.slow_reader_s), *key_check)
        server = grpc.aio.server(interceptors=interceptors, options=self._options())
        self._add_services(server)
        try:
            self.port = _add_port(server, join(listening.host, listening.port), listening.certificates)
        except RuntimeError as error:
            raise OSError(errno.EADDRNOTAVAIL, str(error)) from error
        self._server = server

    def _add_services(self, server: grpc.aio.Server) -> None:
        generator, texts = self._backend.generator, self._backend.texts
        inference = InferenceServicer(generator, texts)
        admin = AdminServicer(generator, texts.entrance, self._operation)
        batches = BatchesServicer(texts, self._backend.jobs)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, server)
        batches_pb2_grpc.add_BatchesServiceServicer_to_server(batches, server)
        add_former_services(server, inference, admin, batches)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        add_reflection((*SERVICE_NAMES, health_name), server)

    async def start(self) -> None:
        """Starts to serve; raises OSError where it has not been bound before and cannot be."""
        if self._server is None:
            self.bind()
        if self._server is not None:
            await self._server.start()

    def _options(self) -> tuple[tuple[str, int], ...]:
        """Returns the limits; one connection may hold all live requests: overload is refused and not kept waiting."""
        most_requests = self._operation.settings.max_ls_requests + self._operation.settings.max_be_requests
        return (
            *SERVER_OPTIONS,
            ("grpc.max_concurrent_streams", most_requests + _OTHER_CALLS),
            ("grpc.max_allowed_incoming_connections", self._limits.max_connections),
        )

    def drain(self) -> None:
        """Says that it does not serve any more, though calls are answered until `stop`."""
        self._health.stop()

    async def stop(self, grace_s: float) -> None:
        """Stops: health says so first, new calls are refused, running ones get `grace_s` to end, then are cancelled."""
        self.drain()
        if self._server is not None:
            await self._server.stop(grace_s)
            self._server = None


def _add_port(server: grpc.aio.Server, address: str, certificates: Certificates | None) -> int:
    if certificates is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, server_credentials(certificates))


def _try_to_listen(host: str, port: int) -> None:
    """Raises the system's own error if no address of the host can be listened on; gRPC's says only that it failed."""
    failed: OSError | None = None
    for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            socket.create_server(address[:2], family=family).close()
        except OSError as error:
            failed = error
        else:
            return
    if failed is not None:
        raise failed
