"""The engine's loop: order, time, and that one bad command never ends the others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from qllm.v1 import control_pb2

from gpu_worker.channel.engine import Engine, FatalEngineError
from gpu_worker.channel.mailbox import Forget, Mailbox, Order, Progress, Refusal, Shutdown, Stop
from gpu_worker.contract.commands import Advance, Command, DropSequence
from gpu_worker.contract.executor import GoesOn
from gpu_worker.contract.results import AdvanceOutcome, BatchError, IntegrityReport
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.errors import CommandRefused, WorkerRefused

EPOCH = 5


@dataclass
class FakeExecutor:
    """Writes down what it is asked to do; raises `error` when advanced or applied, if there is one."""

    calls: list[str] = field(default_factory=list)
    error: Exception | None = None
    failed_message: str = ""
    seen: Callable[[], None] = lambda: None
    places: tuple[Cursor, ...] = (Cursor(0),)

    def apply(self, command: Command) -> None:
        self.calls.append(str(command))
        if self.error:
            raise self.error

    def advance(self, advance: Advance, goes_on: GoesOn) -> AdvanceOutcome:
        self.calls.append(f"advance {advance.command_id}")
        self.seen()
        for cursor in self.places:
            if not goes_on(cursor):
                return AdvanceOutcome(cursor)
        if self.error:
            raise self.error
        failed = [BatchError(1, (), self.failed_message)] if self.failed_message else []
        return AdvanceOutcome(advance.until, batch_errors=failed)

    def abandon(self, batch_ids: Sequence[int], message: str) -> list[BatchError]:
        return [BatchError(batch_ids[0], (3,), message)]

    def check(self, check_id: int) -> IntegrityReport:
        self.calls.append(f"check {check_id}")
        return IntegrityReport(check_id, "two hold block 3", num_sequences=4, device_bytes=1 << 40)

    def forget_all(self) -> None:
        self.calls.append("forget_all")


@dataclass
class FakeReporter:
    epoch: int = EPOCH
    reports: list[tuple[int, control_pb2.WorkerReport]] = field(default_factory=list)

    def send(self, epoch: int, report: control_pb2.WorkerReport) -> None:
        self.reports.append((epoch, report))


class Bench:
    """An engine with everything around it; `run` feeds it and returns its reports."""

    def __init__(self, **executor: object) -> None:
        self.executor = FakeExecutor(**executor)  # type: ignore[arg-type]
        self.reporter = FakeReporter()
        self.mailbox, self.progress = Mailbox(), Progress()
        self.engine = Engine(self.mailbox, self.executor, self.reporter, self.progress)

    def run(self, *mails: Order | Shutdown | Forget) -> list[control_pb2.WorkerReport]:
        for mail in (*mails, Stop()):
            self.mailbox.put(mail)
        self.engine.run()
        return [report for _, report in self.reporter.reports]


def advance(command_id: int, epoch: int = EPOCH) -> Order:
    cursor = control_pb2.Cursor(layer=1, stage=control_pb2.STAGE_ATTENTION)
    step = control_pb2.Advance(command_id=command_id, batch_ids=[1], until=cursor)
    return Order(epoch, control_pb2.StepCommand(advance=step))


def drop(seq_id: int = 1) -> Order:
    return Order(EPOCH, control_pb2.StepCommand(drop_sequence=control_pb2.DropSequence(seq_id=seq_id)))


def shutdown(epoch: int = EPOCH) -> Shutdown:
    return Shutdown(epoch)


def test_commands_run_in_order_and_each_advance_has_one_result() -> None:
    bench = Bench()
    reports = bench.run(advance(1), drop(), advance(2))
    assert bench.executor.calls == ["advance 1", str(DropSequence(1)), "advance 2"]
    assert [report.step_result.command_id for report in reports] == [1, 2]
    assert [epoch for epoch, _ in bench.reporter.reports] == [EPOCH, EPOCH]


def test_a_check_is_answered_when_its_turn_comes() -> None:
    bench = Bench()
    check = Order(EPOCH, control_pb2.StepCommand(check_integrity=control_pb2.CheckIntegrity(check_id=9)))
    _, report, _ = bench.run(advance(1), check, advance(2))
    assert bench.executor.calls == ["advance 1", "check 9", "advance 2"]
    answer = report.integrity_report
    assert (answer.check_id, answer.problem, answer.num_sequences) == (9, "two hold block 3", 4)
    assert answer.device_bytes == 1 << 40


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self._now_ns = 0

    def pass_ns(self, duration_ns: int) -> None:
        self._now_ns += duration_ns

    def monotonic_ns(self) -> int:
        return self._now_ns


def test_result_says_how_long_it_took_and_how_long_the_engine_was_idle_since_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("gpu_worker.channel.engine.time", clock)
    bench = Bench(seen=lambda: clock.pass_ns(20))
    clock.pass_ns(30)
    first, second = (report.step_result for report in bench.run(advance(1), drop(), advance(2)))
    assert (first.duration_ns, second.duration_ns) == (20, 20)
    assert (first.idle_ns, second.idle_ns) == (30, 0)  # the first one's time is not idle time


def test_refused_commands_are_reported_with_the_id_of_an_advance() -> None:
    bench = Bench(error=CommandRefused("batch 1 is not known"))
    errors = [report.command_error for report in bench.run(drop(), advance(2))]
    assert [(error.command_id, error.message) for error in errors] == [
        (0, "batch 1 is not known"),
        (2, "batch 1 is not known"),
    ]


def test_what_cannot_be_read_is_refused_with_the_id_of_an_advance_and_the_engine_goes_on() -> None:
    bench = Bench()
    unplaced = advance(1)
    unplaced.command.advance.until.stage = control_pb2.STAGE_UNSPECIFIED
    *errors, last = bench.run(Order(EPOCH, control_pb2.StepCommand()), unplaced, advance(2))
    assert [(error.command_error.command_id, error.command_error.message) for error in errors] == [
        (0, "command None is not known to this worker"),
        (1, "until.stage: got 0, allowed are [1, 2]"),
    ]
    assert bench.executor.calls == ["advance 2"]
    assert last.step_result.command_id == 2


def test_advance_that_raises_fails_its_batches_and_the_engine_goes_on() -> None:
    bench = Bench(error=ValueError("shape"))
    results = [report.step_result for report in bench.run(advance(1), advance(2))]
    assert [result.command_id for result in results] == [1, 2]
    assert results[0].batch_errors[0].message == "ValueError: shape"


def test_other_command_that_raises_is_reported_and_the_engine_goes_on() -> None:
    bench = Bench(error=ValueError("shape"))
    (report,) = bench.run(drop())
    assert report.command_error.message == "ValueError: shape"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA error: device-side assert triggered"),
        type("AcceleratorError", (RuntimeError,), {})("lost"),
    ],
)
@pytest.mark.parametrize("mail", [advance(1), drop()])
def test_error_that_nothing_survives_ends_the_engine(error: Exception, mail: Order) -> None:
    with pytest.raises(FatalEngineError):
        Bench(error=error).run(mail)


def test_batch_that_failed_of_a_broken_device_ends_the_engine() -> None:
    with pytest.raises(FatalEngineError):
        Bench(failed_message="RuntimeError: CUDA error: an illegal memory access").run(advance(1))


def test_full_device_memory_fails_one_batch_only() -> None:
    bench = Bench(failed_message="OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")
    assert len(bench.run(advance(1), advance(2))) == 2


def test_commands_of_another_epoch_are_void_even_shutdown() -> None:
    bench = Bench()
    assert len(bench.run(advance(1, epoch=4), shutdown(epoch=4), advance(2))) == 1
    assert bench.executor.calls == ["advance 2"]


def test_end_of_an_epoch_forgets_everything() -> None:
    bench = Bench()
    bench.run(advance(1), Forget(), advance(2))
    assert bench.executor.calls == ["advance 1", "forget_all", "advance 2"]


def test_shutdown_ends_the_engine_before_later_commands() -> None:
    bench = Bench()
    bench.run(advance(1), shutdown(), advance(2))
    assert bench.executor.calls == ["advance 1"]


def test_progress_names_the_running_command_and_is_idle_otherwise() -> None:
    seen: list[tuple[int, bool]] = []
    bench = Bench(seen=lambda: seen.append((bench.progress.command_id, bench.progress.since_ns() > 0)))
    bench.run(advance(7))
    assert seen == [(7, True)]
    assert (bench.progress.command_id, bench.progress.since_ns()) == (0, 0)


INSIDE = (Cursor(0), Cursor(0, Stage.EXPERTS, 0), Cursor(0, Stage.EXPERTS, 5), Cursor(1), Cursor(2))


@pytest.mark.parametrize(
    ("preempt_at", "reached"),
    [
        (control_pb2.PREEMPT_AT_EXPERT, Cursor(0, Stage.EXPERTS, 5)),
        (control_pb2.PREEMPT_AT_LAYER, Cursor(1)),
        (control_pb2.PREEMPT_AT_UNSPECIFIED, None),
    ],
)
def test_an_advance_that_is_preempted_stops_at_the_next_place_where_it_may(
    preempt_at: control_pb2.PreemptAt.ValueType, reached: Cursor | None
) -> None:
    bench = Bench()

    def places() -> Iterator[Cursor]:
        for i, cursor in enumerate(INSIDE):
            if i == 2:  # Preempt arrives while the second unit runs
                bench.mailbox.preempted_command_ids = range(2)
            yield cursor

    bench.executor.places = places()  # type: ignore[assignment]
    order = advance(1)
    order.command.advance.preempt_at = preempt_at
    (report,) = bench.run(order)
    if reached is None:
        assert report.step_result.reached.layer == order.command.advance.until.layer
    else:
        assert (report.step_result.reached.layer, report.step_result.reached.expert) == (reached.layer, reached.expert)


def test_a_preempt_concerns_no_earlier_and_no_later_advance() -> None:
    bench = Bench()
    bench.mailbox.preempted_command_ids = range(2, 4)
    orders = [advance(command_id) for command_id in range(1, 5)]
    for order in orders:
        order.command.advance.preempt_at = control_pb2.PREEMPT_AT_EXPERT
    reached = [report.step_result.reached for report in bench.run(*orders)]
    end, nowhere = orders[0].command.advance.until, control_pb2.Cursor(stage=control_pb2.STAGE_ATTENTION)
    assert reached == [end, nowhere, nowhere, end]


def test_a_worker_that_the_scheduler_refuses_for_good_ends_with_the_reason() -> None:
    bench = Bench()
    bench.mailbox.put(Refusal("model.vocab_size: got 0"))
    with pytest.raises(WorkerRefused, match="the scheduler refuses this worker: model"):
        bench.engine.run()
