import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.queues import BE_DECODE, BE_PREFILL, LS_PREFILL, Queues, SequenceQueue
from scheduler_svc.core.state.sequence import SamplingParams, Sequence, StopConditions
from tests.support.core.simulation import BE, LS


def sequence(seq_id: int, arrival_s: float = 0.0, request_class: object = BE) -> Sequence:
    sampling, stop = SamplingParams(), StopConditions(5)
    return Sequence(SeqId(seq_id), request_class, (1, 2), sampling, stop, arrival_s)  # type: ignore[arg-type]


def by_arrival(seq: Sequence) -> tuple[float, ...]:
    return (seq.arrival_s,)


def test_the_lowest_key_comes_first_and_equal_keys_in_order_of_pushing() -> None:
    queue = SequenceQueue(by_arrival)
    for seq_id, arrival_s in ((1, 3.0), (2, 1.0), (3, 1.0)):
        queue.push(sequence(seq_id, arrival_s))
    popped = [queue.pop() for _ in range(4)]
    assert [s and s.seq_id for s in popped] == [2, 3, 1, None]


def test_a_sequence_stands_in_the_queue_of_its_class_and_phase() -> None:
    queues = Queues(by_arrival)
    waiting, asking = sequence(1), sequence(2, request_class=LS)
    assert queues.of(waiting) is queues[BE_PREFILL]
    assert queues.of(asking) is queues[LS_PREFILL]
    waiting.num_computed_tokens = 2
    waiting.append(7, 1.0)
    assert queues.of(waiting) is queues[BE_DECODE]
    queues.of(waiting).push(waiting)
    assert queues.num_waiting(BE) == 1
    assert [len(queue) for queue in queues] == [0, 0, 0, 1]


def test_what_a_sequence_has_before_it_is_its_prompt_and_then_its_output() -> None:
    seq = sequence(1)
    assert seq.num_tokens_ahead == 2
    seq.num_computed_tokens = 1
    assert seq.num_tokens_ahead == 1
    seq.num_computed_tokens = 2
    seq.append(7, 1.0)
    assert seq.num_tokens_ahead == 4


def test_a_sequence_pushed_again_after_removal_is_there_once() -> None:
    queue = SequenceQueue(by_arrival)
    seq = sequence(1)
    queue.push(seq)
    queue.remove(seq)
    queue.push(seq)
    assert list(queue) == [seq]
    assert queue.pop() is seq
    assert queue.peek() is None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 200), st.floats(0, 100))))
def test_any_mix_of_pushes_and_removals_keeps_the_order(steps: list[tuple[bool, int, float]]) -> None:
    queue, members = SequenceQueue(by_arrival), {}
    for is_push, seq_id, arrival_s in steps:
        if is_push and seq_id not in members:
            members[seq_id] = sequence(seq_id, arrival_s)
            queue.push(members[seq_id])
        elif not is_push and seq_id in members:
            queue.remove(members.pop(seq_id))
    assert len(queue) == len(members)
    assert queue.num_tokens_ahead == sum(member.num_tokens_ahead for member in members.values())
    assert {s.seq_id for s in queue} == set(members)
    order = [s.arrival_s for s in iter(queue.pop, None)]
    assert order == sorted(s.arrival_s for s in members.values())
    assert queue.num_tokens_ahead == 0


def test_removed_entries_do_not_pile_up() -> None:
    queue = SequenceQueue(by_arrival)
    for i in range(10_000):
        seq = sequence(i)
        queue.push(seq)
        queue.remove(seq)
    assert len(queue._heap) < 200


def test_removing_a_stranger_is_an_error() -> None:
    with pytest.raises(KeyError):
        SequenceQueue(by_arrival).remove(sequence(1))
