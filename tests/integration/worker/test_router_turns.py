"""Messages that have piled up are delivered one in each turn of the loop, so that streams go on meanwhile."""

import asyncio

from scheduler_svc.channel.endpoint import prepare_endpoint
from scheduler_svc.channel.router import Router
from tests.support.channel.control_channel import RawPeer, eventually, ipc_endpoint

NUM_MESSAGES = 30


async def test_messages_that_piled_up_are_delivered_one_a_turn() -> None:
    loop = asyncio.get_running_loop()
    turns = [0]
    delivered_in: list[int] = []

    def note(_: list[bytes]) -> None:
        delivered_in.append(turns[0])

    def turn() -> None:
        turns[0] += 1
        loop.call_soon(turn)

    with ipc_endpoint() as endpoint:
        prepare_endpoint(endpoint, None)
        router = Router(endpoint, None, silence_limit_s=10, on_message=note, on_disconnect=lambda: None)
        router.open()
        try:
            with RawPeer(endpoint) as peer:
                peer.send(b"first")
                await eventually(lambda: delivered_in)
                for number in range(NUM_MESSAGES):
                    peer.send(str(number).encode())
                peer.socket.poll(100)  # nothing comes: the messages pile up meanwhile, for the loop stands still
                turn()
                await eventually(lambda: len(delivered_in) == 1 + NUM_MESSAGES)
        finally:
            router.close()
    assert len(set(delivered_in)) == 1 + NUM_MESSAGES
