"""Simulated work takes the time that the table says, can be stopped between units, and is counted as real work is."""

from collections.abc import Callable, Sequence

import pytest
from qllm.cost_table import CostTable

from gpu_worker.contract.results import WorkTiming
from gpu_worker.cursor import Cursor, Stage
from gpu_worker.simulated.batch import Part, Routing, SimulatedBatch, SimulatedSequence
from gpu_worker.simulated.step import Pacer, SimulatedStep
from tests.unit.qllm.test_cost_table import table

COSTS = table()
FREE = table(
    attention_us={"fixed": 0, "per_token": 0, "per_pair": 0},
    expert_us={"fixed": 0, "per_token": 0},
    head_us={"fixed": 0, "per_row": 0},
)
ROUTING = Routing(num_layers=3, num_experts=4, num_chosen=2)
END = Cursor(3)


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.sleeps_ns: list[int] = []
        self.oversleep_ns = 0

    def sleep(self, seconds: float) -> None:
        self.sleeps_ns.append(round(seconds * 1e9))
        self.now_ns += self.sleeps_ns[-1] + self.oversleep_ns

    @property
    def pacer(self) -> Pacer:
        return Pacer(lambda: self.now_ns, self.sleep)


def batch(num_tokens: int, cursor: Cursor = Cursor(0), num_cached: int = 0) -> SimulatedBatch:  # noqa: B008 - immutable
    sequence = SimulatedSequence(1, 0, frozenset(), 9, 0, 0)
    sequence.num_cached = num_cached
    made = SimulatedBatch(1, [Part(sequence, [5] * num_tokens, samples=True)], num_rows=1)
    made.cursor = cursor
    return made


def run(
    *batches: SimulatedBatch,
    until: Cursor = END,
    costs: CostTable = COSTS,
    time: FakeTime | None = None,
    goes_on: Callable[[Cursor], bool] = lambda cursor: True,
) -> tuple[Cursor, SimulatedStep]:
    step = SimulatedStep(costs, ROUTING, batches, until, goes_on, (time or FakeTime()).pacer)
    return step.run(), step


def visited(*batches: SimulatedBatch, until: Cursor = END) -> list[Cursor]:
    places: list[Cursor] = []
    run(*batches, until=until, goes_on=lambda cursor: not places.append(cursor))  # type: ignore[func-returns-value]
    return places


def test_iteration_takes_the_time_that_the_table_says() -> None:
    time = FakeTime()
    _, step = run(batch(4, num_cached=10), time=time)
    layer_us = (100 + 4 * 10 + 4 * 14) + 4 * (50 + 2 * 5)
    assert time.now_ns == (3 * layer_us + 33) * 1000
    timing = step.timing
    assert timing.attention_ns + timing.expert_ns + timing.head_ns == time.now_ns


def test_sleeping_too_long_is_made_up_for() -> None:
    time = FakeTime()
    time.oversleep_ns = 7_000
    run(batch(4), time=time)
    exact = FakeTime()
    run(batch(4), time=exact)
    assert time.now_ns == exact.now_ns + 7_000


def test_units_too_short_to_sleep_for_add_up() -> None:
    time = FakeTime()
    tiny = table(
        attention_us={"fixed": 1, "per_token": 0, "per_pair": 0},
        expert_us={"fixed": 2, "per_token": 0},
        head_us={"fixed": 0, "per_row": 0},
    )
    _, step = run(batch(4), costs=tiny, time=time)
    assert step.timing.attention_ns + step.timing.expert_ns == 27_000
    assert time.sleeps_ns == [21_000]


def test_every_unit_may_be_the_last() -> None:
    places = visited(batch(4))
    assert places[:6] == [Cursor(0), *(Cursor(0, Stage.EXPERTS, e) for e in range(4)), Cursor(1)]
    assert len(places) == 15
    for place in places:
        time = FakeTime()
        reached, step = run(batch(4), time=time, goes_on=lambda at, place=place: at != place)  # type: ignore[misc]
        assert reached == place
        assert not step.finished
        _, rest = run(batch(4, cursor=reached))
        whole = run(batch(4))[1].timing
        assert step.timing.num_expert_runs + rest.timing.num_expert_runs == whole.num_expert_runs == 12


@pytest.mark.parametrize("until", [*visited(batch(4)), Cursor(0, Stage.EXPERTS, 4), END])
def test_stops_where_it_is_told(until: Cursor) -> None:
    one = batch(4)
    reached, step = run(one, until=until)
    assert reached == one.cursor == until
    assert [b is one for b in step.finished] == [True] * (until == END)


def test_experts_without_tokens_are_passed_over_but_never_the_end_of_their_stage() -> None:
    one = batch(1)  # its token goes to two experts of four
    assert len(visited(batch(1))) == 9
    reached, _ = run(one, until=Cursor(0, Stage.EXPERTS, 3))
    assert reached == Cursor(0, Stage.EXPERTS, 4)
    assert visited(one, until=Cursor(1))[0] == reached


def test_batches_that_stand_together_run_each_expert_once() -> None:
    first, second = batch(4), batch(6)
    _, step = run(first, second)
    assert step.timing.num_attention_stages == 6
    assert step.timing.num_expert_runs == 12
    assert step.timing.expert_tokens == 3 * 2 * 10
    assert step.timing.num_heads == 2
    assert step.finished == [first, second]


def test_batch_that_is_behind_goes_first_and_is_joined() -> None:
    behind, ahead = batch(4), batch(4, cursor=Cursor(1, Stage.EXPERTS, 2))
    _, step = run(behind, ahead, until=Cursor(2))
    assert step.timing.num_expert_runs == 8
    assert step.timing.expert_tokens == 8 + 4 + 8


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 4, 9])
@pytest.mark.parametrize(
    ("start", "until"),
    [
        (Cursor(0), END),
        (Cursor(1), Cursor(2)),
        (Cursor(0), Cursor(2, Stage.EXPERTS, 1)),
        (Cursor(1, Stage.EXPERTS, 4), END),
    ],
)
def test_free_work_is_skipped_over_and_counted_all_the_same(num_tokens: int, start: Cursor, until: Cursor) -> None:
    asked: list[Cursor] = []
    reached, free = run(
        batch(num_tokens, start),
        until=until,
        costs=FREE,
        goes_on=lambda cursor: not asked.append(cursor),  # type: ignore[func-returns-value]
    )
    place, paid = run(batch(num_tokens, start), until=until)
    assert reached == place
    assert _counts(free.timing) == _counts(paid.timing)
    assert len(free.finished) == len(paid.finished)
    assert len(asked) <= 12


def test_free_work_is_not_begun_once_it_is_to_stop() -> None:
    reached, step = run(batch(4), costs=FREE, goes_on=lambda cursor: False)
    assert reached == Cursor(0)
    assert step.timing.num_attention_stages == 0


def test_batch_that_lost_all_its_sequences_is_over_without_having_run() -> None:
    empty = batch(4, cursor=END)
    empty.parts = []
    time = FakeTime()
    reached, step = run(empty, time=time)
    assert (reached, step.finished, time.now_ns) == (END, [empty], 0)


def _counts(timing: WorkTiming) -> Sequence[int]:
    return (
        timing.num_attention_stages,
        timing.attention_tokens,
        timing.attention_pairs,
        timing.num_expert_runs,
        timing.expert_tokens,
        timing.num_heads,
        timing.head_rows,
    )
