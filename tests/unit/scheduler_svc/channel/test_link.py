"""The scheduler's end of the control channel against a peer that does only what a test says."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from qllm.protocol import PROTOCOL_VERSION
from qllm.v1 import control_pb2

from scheduler_svc.channel import router
from scheduler_svc.channel.link import WorkerLink
from scheduler_svc.core.state.commands import CheckIntegrity
from scheduler_svc.core.state.results import IntegrityReport
from scheduler_svc.generation import WorkerState
from tests.support.channel.control_channel import (
    RawPeer,
    RecordingListener,
    advance,
    eventually,
    ipc_endpoint,
    listening,
)

Channel = tuple[WorkerLink, RecordingListener]

STEP = control_pb2.StepResult(command_id=1, reached=control_pb2.Cursor(layer=1, stage=control_pb2.STAGE_ATTENTION))


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ipc_endpoint() as endpoint:
        yield endpoint


@pytest.fixture
async def channel(endpoint: str) -> AsyncIterator[Channel]:
    async with listening(endpoint, hang_timeout_s=1000) as channel:
        yield channel


@pytest.fixture
def peer(endpoint: str, channel: Channel) -> Iterator[RawPeer]:
    with RawPeer(endpoint, b"worker") as peer:
        yield peer


async def join(peer: RawPeer, channel: Channel, epoch: int = 7) -> None:
    peer.say_hello(epoch)
    await channel[1].wait_for("joined", len(channel[1].of("joined")) + 1)


async def test_hello_is_answered_with_the_heartbeat_interval(peer: RawPeer, channel: Channel) -> None:
    await join(peer, channel)
    message = await peer.receive("welcome")
    assert (message.worker_epoch, message.command.welcome.heartbeat_interval_ms) == (7, 50)
    assert channel[0].epoch == 7


async def test_repeated_hello_is_one_join(peer: RawPeer, channel: Channel) -> None:
    await join(peer, channel)
    for _ in range(3):
        peer.say_hello(7)
    channel[0].send([advance(1)])
    peer.report(7, step_result=STEP)
    await channel[1].wait_for("result")
    assert [event[0] for event in channel[1].events] == ["joined", "result"]


async def test_a_check_is_answered_once_and_what_was_not_asked_for_is_dropped(peer: RawPeer, channel: Channel) -> None:
    link, listener = channel
    await join(peer, channel)
    link.send([CheckIntegrity(3)])
    assert (await peer.receive("check_integrity")).command.check_integrity.check_id == 3
    report = control_pb2.IntegrityReport(check_id=3, problem="a leak", num_held_blocks=5, num_sequences=2)
    for check_id in (2, 3, 3):
        report.check_id = check_id
        peer.report(7, integrity_report=report)
    await eventually(lambda: link.dropped_frames.get("unasked") == 2)
    [(_, found)] = listener.of("integrity")
    assert isinstance(found, IntegrityReport)
    assert (found.check_id, found.problem, found.num_held_blocks, found.num_sequences) == (3, "a leak", 5, 2)


async def test_frames_of_another_epoch_are_dropped(peer: RawPeer, channel: Channel) -> None:
    link, listener = channel
    await join(peer, channel)
    link.send([advance(1)])
    peer.report(6, step_result=STEP)
    peer.report(8, heartbeat=control_pb2.Heartbeat(since_progress_ns=1 << 62))
    peer.report(7, step_result=STEP)
    await listener.wait_for("result")
    assert link.dropped_frames["epoch"] == 2
    assert [event[0] for event in listener.events] == ["joined", "result"]


async def test_new_epoch_of_the_same_peer_replaces_the_old_which_never_returns(peer: RawPeer, channel: Channel) -> None:
    link, listener = channel
    await join(peer, channel, 7)
    await join(peer, channel, 8)
    assert [event[0] for event in listener.events] == ["joined", "lost", "joined"]
    peer.say_hello(7)
    await eventually(lambda: link.dropped_frames.get("epoch") == 1)
    assert (link.epoch, link.state) == (8, WorkerState.READY)


async def test_newcomer_is_told_to_wait_while_the_worker_is_there_and_heard_when_it_is_gone(
    endpoint: str, peer: RawPeer, channel: Channel
) -> None:
    link, listener = channel
    await join(peer, channel)
    with RawPeer(endpoint, b"newcomer") as newcomer:
        newcomer.say_hello(9)
        refused = (await newcomer.receive("refused")).command.refused
        assert "pid" in refused.reason
        assert refused.retry_after_ms >= 1000
        assert not refused.final
        assert len(listener.of("waits")) == 1
        assert link.epoch == 7
        peer.socket.close()
        await listener.wait_for("lost")
        refused = (await newcomer.receive("refused")).command.refused
        assert (refused.retry_after_ms, refused.final) == (0, False)
        newcomer.say_hello(9)
        await listener.wait_for("joined", 2)


async def test_a_worker_that_waits_is_handed_the_place_and_the_one_before_it_ends(
    endpoint: str, peer: RawPeer, channel: Channel
) -> None:
    link, listener = channel
    await join(peer, channel)
    assert not link.hand_over()
    with RawPeer(endpoint, b"newcomer") as newcomer:
        newcomer.say_hello(9)
        await newcomer.receive("refused")
        assert link.hand_over()
        await peer.receive("shutdown")
        await newcomer.receive("refused")
        newcomer.say_hello(9)
        await listener.wait_for("joined", 2)
    assert [event[0] for event in listener.events[:4]] == ["joined", "waits", "lost", "joined"]
    assert listener.of("lost")[0][2] is False  # nobody is to blame for that
    assert not link.hand_over()


async def test_nothing_is_handed_over_to_a_worker_that_waited_and_is_gone(
    endpoint: str, peer: RawPeer, channel: Channel
) -> None:
    link, listener = channel
    await join(peer, channel)
    with RawPeer(endpoint, b"newcomer") as newcomer:
        newcomer.say_hello(9)
        await newcomer.receive("refused")
    await eventually(lambda: not link.num_waiting)
    assert not link.hand_over()
    assert link.state is WorkerState.READY
    assert not listener.of("lost")


async def test_newcomer_takes_the_place_of_a_worker_that_hangs_at_once(endpoint: str) -> None:
    async with listening(endpoint, hang_timeout_s=0.4) as channel:
        link, listener = channel
        with RawPeer(endpoint, b"worker") as peer, RawPeer(endpoint, b"newcomer") as newcomer:
            await join(peer, channel)
            await listener.wait_for("hung")
            newcomer.say_hello(9)
            await newcomer.receive("welcome")
            assert link.epoch == 9
            await peer.receive("shutdown")
            assert [event[0] for event in listener.events[:4]] == ["joined", "hung", "lost", "joined"]


@pytest.mark.parametrize(
    ("flaw", "reason"), [({"protocol_version": 1}, "protocol 1"), ({"model": {"num_layers": 0}}, "num_layers: got 0")]
)
async def test_worker_that_can_never_be_taken_is_told_why(
    peer: RawPeer, channel: Channel, flaw: dict[str, Any], reason: str
) -> None:
    valid = {"protocol_version": PROTOCOL_VERSION}
    peer.report(7, hello={**valid, **flaw})
    refused = (await peer.receive("refused")).command.refused
    assert refused.final
    assert reason in refused.reason
    assert not channel[1].events


async def test_answer_that_nobody_waits_for_is_dropped(peer: RawPeer, channel: Channel) -> None:
    link, listener = channel
    await join(peer, channel)
    link.send([advance(1)])
    for _ in range(2):
        peer.report(7, step_result=STEP)
    peer.report(7, step_result=control_pb2.StepResult(command_id=99))
    peer.report(7, command_error=control_pb2.CommandError(command_id=98))
    await eventually(lambda: link.dropped_frames.get("unasked") == 3)
    assert len(listener.results) == 1
    assert not listener.of("refused")


async def test_invalid_answer_counts_as_a_refusal_so_that_its_command_ends(peer: RawPeer, channel: Channel) -> None:
    link, listener = channel
    await join(peer, channel)
    link.send([advance(1)])
    peer.report(7, step_result=control_pb2.StepResult(command_id=1))
    _, command_id, message = await listener.wait_for("refused")
    assert command_id == 1
    assert "reached" in str(message)


async def test_silent_worker_is_hung_until_its_next_heartbeat(endpoint: str) -> None:
    async with listening(endpoint, hang_timeout_s=0.4) as (link, listener):
        with RawPeer(endpoint, b"worker") as peer:
            await join(peer, (link, listener))
            await listener.wait_for("hung")
            assert link.state is WorkerState.HUNG
            assert link.send([advance(1)])
            peer.report(7, heartbeat=control_pb2.Heartbeat())
            await listener.wait_for("recovered")


async def test_send_reports_a_loss_after_it_returned(peer: RawPeer, channel: Channel) -> None:
    link, listener = channel
    await join(peer, channel)
    peer.socket.close()
    while link.send([advance(1)]):
        assert link.state is WorkerState.READY
        await asyncio.sleep(0.001)
    await listener.wait_for("lost")
    assert len(listener.of("lost")) == 1
    assert link.state is WorkerState.ABSENT
    assert not link.send_shutdown()


async def test_worker_that_takes_nothing_is_lost_instead_of_blocking(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "_MAX_QUEUED_MESSAGES", 10)
    async with listening(endpoint, hang_timeout_s=1000) as channel:
        link, listener = channel
        with RawPeer(endpoint, b"worker", max_queued_frames=1) as peer:
            await join(peer, channel)
            number = 0
            while link.send([advance(number + 1)] * 1000):
                number += 1
                assert number < 10_000
            _, reason, died = await listener.wait_for("lost")
            assert "untaken" in str(reason)
            assert died


async def test_listener_that_raises_does_not_stop_the_channel(peer: RawPeer, channel: Channel) -> None:
    link, listener = channel
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    await join(peer, channel)
    working, listener.step_result = listener.step_result, lambda result: 1 // 0  # type: ignore[method-assign]
    link.send([advance(1), advance(2)])
    peer.report(7, step_result=STEP)
    await eventually(lambda: errors)
    listener.step_result = working  # type: ignore[method-assign]
    peer.report(7, step_result=control_pb2.StepResult(command_id=2, reached=STEP.reached))
    await listener.wait_for("result")
    assert isinstance(errors[0]["exception"], ZeroDivisionError)


async def test_flood_of_a_stranger_does_not_keep_the_worker_from_being_heard(
    endpoint: str, peer: RawPeer, channel: Channel
) -> None:
    link, listener = channel
    await join(peer, channel)
    link.send([advance(1)])
    with RawPeer(endpoint) as stray:
        for _ in range(5000):
            stray.send(b"noise")
        peer.report(7, step_result=STEP)
        await listener.wait_for("result")
        await eventually(lambda: link.dropped_frames.get("unparsable") == 5000)


async def test_two_schedulers_can_not_share_an_endpoint(endpoint: str, channel: Channel) -> None:
    with pytest.raises(router.EndpointRefused, match="another process listens"):
        await WorkerLink(endpoint, RecordingListener()).start()


async def test_close_is_silent_and_may_be_repeated(endpoint: str) -> None:
    async with listening(endpoint) as channel:
        link, listener = channel
        with RawPeer(endpoint, b"worker") as peer:
            await join(peer, channel)
            await link.close()
            await link.close()
            assert [event[0] for event in listener.events] == ["joined"]
            assert not link.send([advance(1)])
