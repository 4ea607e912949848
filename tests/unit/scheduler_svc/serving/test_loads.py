"""What operators read of a core counts every live sequence once, in its class and where it is."""

import pytest

from scheduler_svc.core.cache.load import MemoryLoad
from scheduler_svc.core.policies import POLICIES, Limits
from scheduler_svc.core.scheduler import Scheduler
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, Sequence, SequenceState, StopConditions
from scheduler_svc.serving.loads import NO_LOADS, read_loads
from tests.support.core.simulation import Simulation
from tests.support.service.fakes import MEMORY, served_model

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT


def scheduler_with(*sequences: Sequence) -> Scheduler:
    scheduler = Scheduler(served_model().core, POLICIES["qllm"]())
    for sequence in sequences:
        scheduler.add(sequence)
    return scheduler


def sequence(seq_id: int, request_class: RequestClass = BE) -> Sequence:
    return Sequence(SeqId(seq_id), request_class, (5, 6), SamplingParams(), StopConditions(9), 0.0)


def test_each_sequence_counts_once_in_its_class_and_where_it_is() -> None:
    fresh, decoding, running, offloaded = (sequence(number) for number in range(4))
    urgent = sequence(4, LS)
    decoding.output_token_ids, decoding.num_computed_tokens = [7], 2
    running.state = SequenceState.IN_BATCH
    offloaded.num_host_blocks = 1
    loads = read_loads(scheduler_with(fresh, decoding, running, offloaded, urgent), 0.0)
    be, ls = loads.best_effort, loads.latency_sensitive
    assert (be.queued_prefill, be.queued_decode, be.running, be.offloaded) == (1, 1, 1, 1)
    assert (ls.queued_prefill, ls.queued_decode, ls.running, ls.offloaded) == (1, 0, 0, 0)


def test_what_was_promised_and_kept_and_who_rode_is_told() -> None:
    scheduler = scheduler_with()
    counters = scheduler.counters.classes[LS]
    counters.num_judged, counters.num_attained = 10, 9
    scheduler.counters.num_riders = 3
    loads = read_loads(scheduler, 0.0)
    assert (loads.latency_sensitive.num_judged, loads.latency_sensitive.num_attained) == (10, 9)
    assert loads.num_riders == 3


def test_the_wait_of_each_class_is_told_once_it_is_known() -> None:
    unknown, known = scheduler_with(sequence(1, LS)), Simulation(limits=Limits(max_num_seqs=2)).scheduler
    for number in range(3):
        known.add(sequence(number, LS))
    waits = [read_loads(one, 0.0).latency_sensitive.predicted_wait_ms for one in (unknown, known)]
    assert waits[0] is None
    assert waits[1]
    assert waits[1] == known.wait_s(LS) * 1e3
    assert read_loads(known, 0.0).best_effort.predicted_wait_ms == 0.0


def test_without_a_worker_all_loads_are_zero() -> None:
    assert NO_LOADS.best_effort.running == NO_LOADS.total_blocks == NO_LOADS.be_share == 0
    assert NO_LOADS.memory == MemoryLoad()
    assert NO_LOADS.best_effort.predicted_wait_ms is None


def test_memory_is_what_the_core_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "memory_load", lambda _: MEMORY)
    assert read_loads(scheduler_with(), 0.0).memory == MEMORY
