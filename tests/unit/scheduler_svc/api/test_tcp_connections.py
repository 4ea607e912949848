"""No TCP connection of the project holds small packets back: each waits for an acknowledgement that may take 40 ms."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq
import zmq.asyncio
from qllm import AsyncClient
from qllm.client.bench.load.http_target import HttpDialect, HttpTarget
from qllm.client.bench.load.target import Ask
from qllm.client.bench.load.workload import LS
from qllm.v1 import inference_pb2 as pb

from tests.support.service.api_service import collect, running, text_request
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import openai_server, running_http


def sends_at_once(connection: socket.socket) -> bool:
    return bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


def both_ends(port: int) -> list[bool]:
    """Returns what holds for each connection of this process to or from the port, its own end and the peer's."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with open_connection(int(name)) as connection:
            if connection is not None and port in (connection.getsockname()[1], connection.getpeername()[1]):
                found.append(sends_at_once(connection))
    return found


@contextmanager
def open_connection(descriptor: int) -> Iterator[socket.socket | None]:
    """Yields the connected TCP socket of a descriptor, None if it is something else."""
    try:
        connection = socket.socket(fileno=os.dup(descriptor))
    except OSError:  # closed meanwhile, or no socket
        yield None
        return
    with connection:
        is_tcp = connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM
        try:
            connection.getpeername()
        except OSError:
            is_tcp = False
        yield connection if is_tcp else None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_accepted_http_connection_sends_at_once(host: str) -> None:
    generator = FakeGenerator()
    server = openai_server(generator, host)
    server.bind()
    listener = server._listener
    assert listener is not None
    with listener, socket.create_connection(listener.getsockname()[:2]):
        accepted, _ = listener.accept()
        with accepted:
            assert sends_at_once(accepted)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_every_address_of_a_machine_is_listened_on_as_by_grpc() -> None:
    generator = FakeGenerator()
    server = openai_server(generator, "::")
    server.bind()
    listener = server._listener
    assert listener is not None
    with listener:
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, server.port)).close()


async def test_http_and_the_load_generator_send_at_once() -> None:
    async with running_http(FakeGenerator()) as service:
        target = HttpTarget(f"http://{service.server.address}", model=None, dialect=HttpDialect())
        await target.prepare()
        async for _ in target.stream(Ask(LS, "hello", 2)):
            pass
        ends = both_ends(service.server.port)
        await target.close()
    assert len(ends) >= 2
    assert all(ends)


async def test_grpc_and_the_client_send_at_once() -> None:
    async with running(FakeGenerator()) as service, AsyncClient(service.server.address) as client:
        assert await collect(service, text_request("hello", max_tokens=2))
        assert await client.health()
        ends = both_ends(service.server.port)
    assert len(ends) >= 2
    assert all(ends)


async def test_the_control_channel_sends_at_once_over_tcp() -> None:
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        dealer.connect(f"tcp://127.0.0.1:{port}")
        await dealer.send(pb.GenerateRequest().SerializeToString())
        await router.recv_multipart()
        ends = both_ends(port)
        router.linger = dealer.linger = 0
    assert len(ends) == 2
    assert all(ends)
