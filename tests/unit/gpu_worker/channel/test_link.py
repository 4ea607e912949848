"""The worker's end of the control channel against a scheduler that does only what a test says."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from queue import Empty

import pytest
from qllm.v1 import control_pb2

from gpu_worker.channel.link import SchedulerLink
from gpu_worker.channel.mailbox import Forget, Mail, Mailbox, Order, Progress, Refusal
from tests.support.channel.control_channel import RawRouter, command_frame, ipc_endpoint
from tests.support.channel.fake_worker import hello

DROP = control_pb2.DropBatch(batch_id=1)


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ipc_endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def router(endpoint: str) -> Iterator[RawRouter]:
    with RawRouter(endpoint) as router:
        yield router


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def progress() -> Progress:
    return Progress()


@pytest.fixture
def link(endpoint: str, router: RawRouter, mailbox: Mailbox, progress: Progress) -> Iterator[SchedulerLink]:
    link = SchedulerLink(endpoint, hello(), mailbox, progress)
    link.start()
    yield link
    link.close()


def next_mail(mailbox: Mailbox) -> Mail:
    return mailbox.get(timeout=10)


async def join(router: RawRouter) -> tuple[bytes, int]:
    identity, message = await router.receive("hello")
    router.command(identity, message.worker_epoch, welcome=control_pb2.Welcome(heartbeat_interval_ms=20))
    await router.receive("heartbeat")
    return identity, message.worker_epoch


async def test_hello_is_repeated_with_one_epoch_until_it_is_answered(link: SchedulerLink, router: RawRouter) -> None:
    _, first = await router.receive("hello")
    _, second = await router.receive("hello")
    assert first.worker_epoch == second.worker_epoch == link.epoch != 0


async def test_hello_is_said_once_where_the_handshake_shows_late(
    endpoint: str, router: RawRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_worker.channel.link._HELLO_INTERVAL_S", 3600.0)
    is_over = threading.Event()

    def keep_the_interpreter_busy() -> None:
        while not is_over.is_set():
            pass

    num_links = 20
    num_hellos: Counter[int] = Counter()
    with ExitStack() as links:
        threading.Thread(target=keep_the_interpreter_busy, daemon=True).start()
        links.callback(is_over.set)
        for _ in range(num_links):
            link = links.enter_context(closing(SchedulerLink(endpoint, hello(), Mailbox(), Progress())))
            link.start()
        while len(num_hellos) < num_links:
            num_hellos[(await router.receive("hello"))[1].worker_epoch] += 1
    while router.socket.poll(100):
        num_hellos[(await router.receive("hello"))[1].worker_epoch] += 1
    assert set(num_hellos.values()) == {1}


async def test_worker_that_is_told_to_wait_asks_again_when_it_is_time_and_logs_the_reason_once(
    link: SchedulerLink, router: RawRouter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gpu_worker.channel.link._HELLO_INTERVAL_S", 3600.0)
    for wait_ms in (20, 20, 3_600_000, 0):
        identity, message = await router.receive("hello")
        refused = control_pb2.Refused(reason="another serves", retry_after_ms=wait_ms)
        router.command(identity, message.worker_epoch, refused=refused)
        if wait_ms > 1000:  # long before that it is told that the place is free
            router.command(identity, message.worker_epoch, refused=control_pb2.Refused(reason="free"))
    await join(router)
    assert caplog.text.count("another serves") == 1


async def test_worker_that_is_refused_for_good_is_told_so_with_the_reason(
    link: SchedulerLink, router: RawRouter, mailbox: Mailbox
) -> None:
    identity, message = await router.receive("hello")
    router.command(identity, message.worker_epoch, refused=control_pb2.Refused(reason="too old", final=True))
    assert next_mail(mailbox) == Refusal("too old")


async def test_commands_of_this_epoch_reach_the_mailbox_in_order(
    link: SchedulerLink, router: RawRouter, mailbox: Mailbox
) -> None:
    identity, epoch = await join(router)
    for batch_id in range(1, 101):
        router.command(identity, epoch, drop_batch=control_pb2.DropBatch(batch_id=batch_id))
    mails = [next_mail(mailbox) for _ in range(100)]
    assert all(isinstance(mail, Order) and mail.epoch == epoch for mail in mails)
    assert [mail.command.drop_batch.batch_id for mail in mails if isinstance(mail, Order)] == list(range(1, 101))


async def test_commands_that_come_as_one_message_are_taken_in_order_but_for_those_that_are_none(
    link: SchedulerLink, router: RawRouter, mailbox: Mailbox
) -> None:
    identity, epoch = await join(router)
    drops = [command_frame(epoch, drop_batch=control_pb2.DropBatch(batch_id=i)) for i in (1, 2, 3)]
    preempt = command_frame(epoch, preempt=control_pb2.Preempt(first_command_id=5, last_command_id=7))
    router.socket.send_multipart([identity, drops[0], b"no command", drops[1], preempt, drops[2]])
    mails = [next_mail(mailbox) for _ in range(3)]
    assert [mail.command.drop_batch.batch_id for mail in mails if isinstance(mail, Order)] == [1, 2, 3]
    assert list(mailbox.preempted_command_ids) == [5, 6, 7]


async def test_a_preempt_overtakes_and_says_which_advances_it_concerns(
    link: SchedulerLink, router: RawRouter, mailbox: Mailbox
) -> None:
    identity, epoch = await join(router)
    router.command(identity, epoch, preempt=control_pb2.Preempt(first_command_id=5, last_command_id=7))
    router.command(identity, epoch, drop_batch=DROP)
    assert next_mail(mailbox).command.HasField("drop_batch")
    assert list(mailbox.preempted_command_ids) == [5, 6, 7]


async def test_frames_that_are_no_commands_of_this_epoch_are_dropped(
    link: SchedulerLink, router: RawRouter, mailbox: Mailbox
) -> None:
    identity, epoch = await join(router)
    for frame in (b"", os.urandom(50), os.urandom(5 << 20)):
        router.socket.send_multipart([identity, frame])
    router.socket.send_multipart([identity, b"", b"two"])
    router.command(identity, epoch ^ 1, drop_batch=DROP)
    report = control_pb2.WorkerReport(heartbeat=control_pb2.Heartbeat())
    whole = control_pb2.ControlMessage(worker_epoch=epoch, report=report)
    router.socket.send_multipart([identity, whole.SerializeToString()])
    router.command(identity, epoch, drop_batch=control_pb2.DropBatch(batch_id=9))
    mail = next_mail(mailbox)
    assert isinstance(mail, Order)
    assert mail.command.drop_batch.batch_id == 9


async def test_command_before_welcome_is_dropped(link: SchedulerLink, router: RawRouter, mailbox: Mailbox) -> None:
    identity, message = await router.receive("hello")
    router.command(identity, message.worker_epoch, drop_batch=DROP)
    await join(router)
    with pytest.raises(Empty):
        mailbox.get_nowait()


async def test_heartbeats_tell_the_engines_progress(link: SchedulerLink, router: RawRouter, progress: Progress) -> None:
    await join(router)
    _, idle = await router.receive("heartbeat")
    assert idle.report.heartbeat.since_progress_ns == 0
    progress.begin(command_id=5)
    progress.last_ns -= 10**9
    await router.receive("heartbeat")
    _, busy = await router.receive("heartbeat")
    assert busy.report.heartbeat.since_progress_ns > 10**9
    assert busy.report.heartbeat.command_id == 5


async def test_reports_of_an_epoch_that_is_over_are_not_sent(link: SchedulerLink, router: RawRouter) -> None:
    _, epoch = await join(router)
    for report_epoch, command_id in ((epoch ^ 1, 1), (epoch, 2)):
        result = control_pb2.StepResult(command_id=command_id)
        link.send(report_epoch, control_pb2.WorkerReport(step_result=result))
    _, message = await router.receive("step_result")
    assert (message.worker_epoch, message.report.step_result.command_id) == (epoch, 2)


async def test_broken_connection_ends_the_epoch(endpoint: str, mailbox: Mailbox, progress: Progress) -> None:
    link = SchedulerLink(endpoint, hello(), mailbox, progress)
    link.start()
    try:
        with RawRouter(endpoint) as router:
            _, first_epoch = await join(router)
        assert isinstance(next_mail(mailbox), Forget)
        with RawRouter(endpoint) as router:
            _, second_epoch = await join(router)
        assert first_epoch != second_epoch
    finally:
        link.close()


def test_link_that_never_found_a_scheduler_closes(endpoint: str) -> None:
    link = SchedulerLink(endpoint, hello(), Mailbox(), Progress())
    link.start()
    link.close()
