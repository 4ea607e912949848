"""The control channel between real processes: join, loss, hangs, strangers, restarts and keys."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
import zmq.auth
from qllm.protocol import PROTOCOL_VERSION

from scheduler_svc.channel.endpoint import CurveServer, EndpointRefused
from scheduler_svc.channel.link import WorkerLink
from scheduler_svc.channel.waiting_workers import RETRY_AFTER_S
from scheduler_svc.core.state.commands import AddSequence, Command, DropSequence, StartBatch
from scheduler_svc.core.state.ids import BatchId, SeqId
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, StopConditions
from scheduler_svc.generation import WorkerState
from tests.support.channel import fake_worker
from tests.support.channel.control_channel import (
    RawPeer,
    RawRouter,
    RecordingListener,
    advance,
    eventually,
    ipc_endpoint,
    listening,
    worker_process,
)


def add(seq_id: int) -> Command:
    return AddSequence(SeqId(seq_id), SamplingParams(), StopConditions(4), 0)


async def test_worker_joins_with_its_model_and_answers_commands_in_order() -> None:
    with ipc_endpoint() as endpoint:
        async with listening(endpoint) as (link, listener):
            with worker_process(endpoint) as process:
                _, epoch, pid = await listener.wait_for("joined")
                assert (link.state, link.epoch, process.pid) == (WorkerState.READY, epoch, pid)
                assert listener.model is not None
                assert listener.model.core.experts_by_layer == (0, 4)
                assert listener.calibration[0].expert_ns == 5
                start = StartBatch(BatchId(1), RequestClass.BEST_EFFORT, ())
                assert link.send([add(1), start, *(advance(number) for number in range(1, 501))])
                await listener.wait_for("result", 500)
                assert [result.command_id for result in listener.results] == list(range(1, 501))
                assert listener.results[-1].timing.attention_tokens == 1  # it knows one sequence
                assert not link.dropped_frames


async def test_worker_that_starts_before_the_scheduler_joins_when_it_comes() -> None:
    with ipc_endpoint() as endpoint, worker_process(endpoint):
        await asyncio.sleep(0.5)
        async with listening(endpoint) as (_, listener):
            await listener.wait_for("joined")


async def test_worker_of_another_protocol_version_is_told_so_and_ends_with_code_2() -> None:
    with ipc_endpoint() as endpoint:
        async with listening(endpoint) as (link, listener):
            with worker_process(endpoint, "--protocol-version", str(PROTOCOL_VERSION - 1)) as process:
                assert await asyncio.to_thread(process.wait, 30) == 2
                assert link.dropped_frames["version"] == 1
                assert link.state is WorkerState.ABSENT
                assert not listener.events


async def test_killed_worker_is_lost_at_once_and_its_successor_joins_with_a_new_epoch() -> None:
    with ipc_endpoint() as endpoint:
        async with listening(endpoint, heartbeat_interval_s=1000, hang_timeout_s=10_000) as (link, listener):
            with worker_process(endpoint) as process:
                _, first_epoch, _ = await listener.wait_for("joined")
                link.send([advance(1, fake_worker.BATCH_THAT_HANGS_FOREVER)])
                process.kill()
                # Neither a heartbeat nor a probe by the clock is due: only the broken connection tells.
                await listener.wait_for("lost")
            assert link.state is WorkerState.ABSENT
            assert not link.send([advance(2)])
            with worker_process(endpoint):
                _, second_epoch, _ = await listener.wait_for("joined", 2)
                assert first_epoch != second_epoch
                link.send([advance(3)])
                await listener.wait_for("result")


async def test_clean_shutdown_ends_the_worker_with_code_0() -> None:
    with ipc_endpoint() as endpoint:
        async with listening(endpoint) as (link, listener):
            with worker_process(endpoint) as process:
                await listener.wait_for("joined")
                assert link.send_shutdown()
                await listener.wait_for("lost")
                assert await asyncio.to_thread(process.wait, 300) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM])
async def test_signal_ends_an_idle_worker_with_code_0(number: signal.Signals) -> None:
    with ipc_endpoint() as endpoint:
        async with listening(endpoint) as (_, listener):
            with worker_process(endpoint) as process:
                await listener.wait_for("joined")
                process.send_signal(number)
                assert await asyncio.to_thread(process.wait, 300) == 0
                await listener.wait_for("lost")


async def test_hung_engine_is_noticed_and_recovers_with_its_result() -> None:
    with ipc_endpoint() as endpoint:
        async with listening(endpoint, hang_timeout_s=1.5) as (link, listener):
            with worker_process(endpoint):
                await listener.wait_for("joined")
                link.send([advance(1, fake_worker.BATCH_THAT_HANGS_FOR_4_S)])
                _, reason = await listener.wait_for("hung")
                assert link.state is WorkerState.HUNG
                assert "no progress" in str(reason)
                await listener.wait_for("recovered")
                await listener.wait_for("result")
                assert link.state is WorkerState.READY


async def test_long_command_that_makes_progress_is_no_hang() -> None:
    with ipc_endpoint() as endpoint:
        async with listening(endpoint, hang_timeout_s=1.5) as (link, listener):
            with worker_process(endpoint):
                await listener.wait_for("joined")
                link.send([advance(1, fake_worker.BATCH_THAT_IS_LONG_BUT_ALIVE_FOR_3_S)])
                await listener.wait_for("result")
                assert not listener.of("hung")


async def test_stopped_process_hangs_and_goes_on_when_continued() -> None:
    with ipc_endpoint() as endpoint:
        async with listening(endpoint, hang_timeout_s=1.5) as (link, listener):
            with worker_process(endpoint) as process:
                await listener.wait_for("joined")
                process.send_signal(signal.SIGSTOP)
                _, reason = await listener.wait_for("hung")
                assert "no heartbeat" in str(reason)
                process.send_signal(signal.SIGCONT)
                await listener.wait_for("recovered")
                assert not listener.of("lost")
                link.send([advance(1)])
                await listener.wait_for("result")


async def test_process_that_stays_stopped_is_lost_in_the_end() -> None:
    with ipc_endpoint() as endpoint:
        async with listening(endpoint, hang_timeout_s=0.4) as (_, listener):
            with worker_process(endpoint) as process:
                await listener.wait_for("joined")
                process.send_signal(signal.SIGSTOP)
                await listener.wait_for("hung")
                await listener.wait_for("lost")
                process.send_signal(signal.SIGCONT)
                await listener.wait_for("joined", 2)


async def test_refused_and_failing_commands_are_reported_and_the_worker_goes_on() -> None:
    with ipc_endpoint() as endpoint:
        async with listening(endpoint) as (link, listener):
            with worker_process(endpoint):
                await listener.wait_for("joined")
                link.send([
                    DropSequence(SeqId(9)),
                    advance(1, fake_worker.BATCH_THAT_IS_REFUSED),
                    advance(2, fake_worker.BATCH_THAT_RAISES),
                    advance(3, fake_worker.BATCH_WITH_AN_INVALID_RESULT),
                    advance(4),
                ])  # fmt: skip
                await listener.wait_for("result", 2)
                refused = [(command_id, str(message)) for _, command_id, message in listener.of("refused")]
                assert refused[0] == (None, "sequence 9 is not known")
                assert refused[1] == (1, "batch 104 is not known")
                assert refused[2][0] == 3
                assert "token_id" in refused[2][1]
                assert listener.results[0].batch_errors[0].message == "ValueError: this model raises"
                assert listener.results[0].batch_errors[0].seq_ids == (1,)
                assert listener.results[1].command_id == 4


async def test_broken_device_ends_the_worker_with_code_1() -> None:
    with ipc_endpoint() as endpoint:
        async with listening(endpoint) as (link, listener):
            with worker_process(endpoint) as process:
                await listener.wait_for("joined")
                link.send([advance(1, fake_worker.BATCH_THAT_BREAKS_THE_DEVICE)])
                await listener.wait_for("lost")
                assert await asyncio.to_thread(process.wait, 300) == 1


async def test_strangers_never_disturb_a_live_worker() -> None:
    with ipc_endpoint() as endpoint:
        async with listening(endpoint) as (link, listener):
            with worker_process(endpoint):
                _, epoch, _ = await listener.wait_for("joined")
                for round_number in range(5):
                    with RawPeer(endpoint, b"stray") as stray:
                        stray.send(b"")
                        stray.send(os.urandom(100))
                        stray.send(os.urandom(5 << 20))
                        stray.send(b"", b"two", b"three")
                        stray.report(int(str(epoch)), heartbeat={"since_progress_ns": 1 << 62})
                        stray.report(12345, heartbeat={})
                        stray.report(0, heartbeat={})
                        stray.say_hello(99 + round_number, protocol_version=PROTOCOL_VERSION + 1)
                        num = round_number + 1
                        await eventually(lambda n=num: link.dropped_frames.get("version") == n)  # type: ignore[misc]
                    link.send([advance(round_number + 1)])
                    await listener.wait_for("result", round_number + 1)
                assert {event[0] for event in listener.events} == {"joined", "result"}
                assert link.state is WorkerState.READY
                expected = {"unparsable": 20, "shape": 5, "stranger": 10, "version": 5}
                assert dict(link.dropped_frames) == expected


async def test_frame_over_the_limit_costs_only_its_sender_the_connection() -> None:
    with ipc_endpoint() as endpoint:
        async with listening(endpoint) as (link, listener):
            with worker_process(endpoint):
                await listener.wait_for("joined")
                with RawPeer(endpoint) as stray:
                    events = stray.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
                    stray.socket.linger = 0
                    stray.send(bytes(65 << 20))
                    await eventually(lambda: events.poll(0))
                    stray.socket.disable_monitor()
                    events.close()
                link.send([advance(1)])
                await listener.wait_for("result")
                assert {event[0] for event in listener.events} == {"joined", "result"}


async def test_bytes_that_are_no_zeromq_do_not_disturb_the_worker() -> None:
    with ipc_endpoint() as endpoint:
        async with listening(endpoint) as (link, listener):
            with worker_process(endpoint):
                await listener.wait_for("joined")
                for noise in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\xff" + bytes(8) + b"\x7f"):
                    _, writer = await asyncio.open_unix_connection(endpoint.removeprefix("ipc://"))
                    writer.write(noise)
                    await writer.drain()
                    writer.close()
                link.send([advance(1)])
                await listener.wait_for("result")
                assert {event[0] for event in listener.events} == {"joined", "result"}


async def test_scheduler_restart_makes_the_worker_join_anew_and_forget_everything() -> None:
    with ipc_endpoint() as endpoint, worker_process(endpoint):
        async with listening(endpoint) as (link, listener):
            _, first_epoch, _ = await listener.wait_for("joined")
            link.send([add(1), add(2), advance(1)])
            await listener.wait_for("result")
            assert listener.results[0].timing.attention_tokens == 2
        async with listening(endpoint) as (link, listener):
            _, second_epoch, _ = await listener.wait_for("joined")
            assert first_epoch != second_epoch
            link.send([advance(1)])
            await listener.wait_for("result")
            assert listener.results[0].timing.attention_tokens == 0


async def test_second_worker_waits_while_the_first_serves_and_takes_over_when_that_is_killed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with ipc_endpoint() as endpoint:
        async with listening(endpoint) as (link, listener):
            with worker_process(endpoint) as first:
                await listener.wait_for("joined")
                with worker_process(endpoint) as second:
                    await eventually(lambda: "worker_waits" in caplog.text)
                    link.send([advance(1)])
                    await listener.wait_for("result")
                    assert [event[0] for event in listener.events] == ["joined", "waits", "result"]
                    first.kill()
                    async with asyncio.timeout(RETRY_AFTER_S / 2):  # it is told, and need not ask
                        _, _, pid = await listener.wait_for("joined", 2)
                    assert pid == second.pid
                    link.send([advance(2)])
                    await listener.wait_for("result", 2)


async def test_waiting_worker_takes_the_place_of_one_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    with ipc_endpoint() as endpoint:
        async with listening(endpoint, hang_timeout_s=1.0) as (_, listener):
            with worker_process(endpoint) as first, worker_process(endpoint) as second:
                _, _, serving = await listener.wait_for("joined")
                await eventually(lambda: "worker_waits" in caplog.text)
                stopped, waiting = (first, second) if serving == first.pid else (second, first)
                stopped.send_signal(signal.SIGSTOP)
                _, _, pid = await listener.wait_for("joined", 2)
                assert pid == waiting.pid
                assert [event[0] for event in listener.events] == ["joined", "waits", "hung", "lost", "joined"]
                stopped.send_signal(signal.SIGCONT)
                assert await asyncio.to_thread(stopped.wait, 10) == 0


async def test_worker_that_hears_nothing_of_the_scheduler_starts_a_new_epoch() -> None:
    with (
        ipc_endpoint() as endpoint,
        RawRouter(endpoint) as router,
        worker_process(endpoint, "--scheduler-timeout-s", "0.3"),
    ):
        first = await router.welcome_next_hello()
        second = await router.welcome_next_hello()
        assert first.worker_epoch != second.worker_epoch


async def test_tcp_without_keys_is_refused_at_start() -> None:
    link = WorkerLink("tcp://127.0.0.1:0", RecordingListener())
    with pytest.raises(EndpointRefused, match="CURVE"):
        await link.start()
    await link.close()


async def test_tcp_lets_in_the_worker_on_the_list_and_no_other(tmp_path: Path) -> None:
    for directory, names in ((tmp_path, ("server", "worker")), (tmp_path / "other", ("worker",))):
        directory.mkdir(exist_ok=True)
        for name in names:
            zmq.auth.create_certificates(directory, name)
    (tmp_path / "other" / "server.key").write_bytes((tmp_path / "server.key").read_bytes())
    curve = CurveServer(tmp_path / "server.key_secret", tmp_path / "worker.key")
    listener = RecordingListener()
    async with WorkerLink("tcp://127.0.0.1:0", listener, curve=curve, heartbeat_interval_s=0.05) as link:
        with (
            worker_process(link.bound_endpoint, "--curve", str(tmp_path / "other")),
            worker_process(link.bound_endpoint),
        ):
            await asyncio.sleep(1.5)
            assert not listener.events
            with worker_process(link.bound_endpoint, "--curve", str(tmp_path)) as process:
                _, _, pid = await listener.wait_for("joined")
                assert pid == process.pid
                link.send([advance(1)])
                await listener.wait_for("result")
                assert len(listener.events) == 2
