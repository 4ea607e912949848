"""The engine tells how each request fared, once, and goes on counting where a worker that is gone has ended."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from scheduler_svc.core.state.sequence import FinishReason, RequestClass
from scheduler_svc.errors import DuplicateRequest, Overloaded, Refusal
from tests.support.service.engine_bench import EngineBench

BE = RequestClass.BEST_EFFORT


def page(bench: EngineBench) -> dict[tuple[str, ...], float]:
    """Returns the samples that are not 0, by name without the prefix and by labels."""
    families = text_string_to_metric_families(bench.engine.metrics().decode())
    samples = [one for family in families for one in family.samples]
    return {(one.name.removeprefix("qllm:"), *one.labels.values()): one.value for one in samples if one.value}


def count(bench: EngineBench, *key: str) -> float:
    return page(bench).get(key, 0)


def ends(bench: EngineBench) -> dict[tuple[str, ...], float]:
    return {key[1:]: value for key, value in page(bench).items() if key[0] == "request_success_total"}


async def test_first_tokens_are_timed_when_they_come_and_ends_when_they_come() -> None:
    bench = EngineBench()
    bench.submit("a", 3)
    while not count(bench, "generation_tokens_total", "ls"):
        bench.answer()
    assert count(bench, "time_to_first_token_seconds_count", "ls") == 1
    assert count(bench, "request_queue_time_seconds_count", "ls") == 1
    assert ends(bench) == {}
    bench.work()
    assert ends(bench) == {("ls", "length"): 1}
    assert count(bench, "time_to_first_token_seconds_count", "ls") == 1
    assert count(bench, "request_time_per_output_token_seconds_count", "ls") == 1


async def test_requests_of_each_class_count_in_their_class() -> None:
    bench = EngineBench()
    bench.submit("a", 2)
    bench.submit("b", 2, BE)
    bench.work()
    assert ends(bench) == {("ls", "length"): 1, ("be", "length"): 1}
    assert count(bench, "time_to_first_token_seconds_count", "be") == 1


async def test_an_answer_that_its_reader_finds_to_be_whole_is_no_abort() -> None:
    bench = EngineBench()
    whole, left = bench.submit("whole", 9), bench.submit("left", 9)
    bench.submit("aborted", 9)
    whole.close(FinishReason.STOP)
    left.close()
    bench.engine.abort("aborted")
    assert ends(bench) == {("ls", "stop"): 1, ("ls", "abort"): 2}


async def test_an_answer_that_a_stop_string_ends_is_judged_by_its_targets() -> None:
    bench = EngineBench()
    whole, left = bench.submit("whole", 9), bench.submit("left", 9)
    while count(bench, "generation_tokens_total", "ls") < 6:
        bench.answer()
    left.close()
    assert count(bench, "target_requests_total", "ls", "both") == 0
    whole.close(FinishReason.STOP)
    assert count(bench, "target_requests_total", "ls", "both") == 1
    assert count(bench, "target_requests_total", "ls", "time_per_token") == 1


async def test_requests_that_find_no_other_worker_in_time_are_errors() -> None:
    bench = EngineBench(worker_wait_s=0.0)
    bench.submit("a", 9)
    bench.submit("b", 9, BE)
    bench.engine.worker_lost("killed", died=True)
    assert ends(bench) == {}
    await asyncio.sleep(0.01)
    assert ends(bench) == {("ls", "error"): 1, ("be", "error"): 1}
    assert (count(bench, "worker_ready"), count(bench, "workers_lost_total")) == (0, 1)


async def test_counters_go_on_with_the_next_worker() -> None:
    bench = EngineBench()
    for _ in range(2):
        bench.submit("a", 3)
        bench.work()
        bench.engine.worker_lost("killed", died=True)
        bench.join()
    assert count(bench, "generation_tokens_total", "ls") == 6
    assert count(bench, "e2e_request_latency_seconds_count", "ls") == 2
    assert (count(bench, "worker_ready"), count(bench, "workers_lost_total")) == (1, 2)


async def test_a_request_that_is_refused_is_not_live_and_leaves_its_place_to_others() -> None:
    bench = EngineBench(max_ls_requests=1)
    first = bench.submit("a", 3)
    with pytest.raises(DuplicateRequest):
        bench.submit("a", 3, BE)
    with pytest.raises(Overloaded):
        bench.submit("b", 3)
    first.close()
    bench.submit("b", 3)
    bench.work()
    assert ends(bench) == {("ls", "abort"): 1, ("ls", "length"): 1}


async def test_front_ends_tell_of_what_they_refuse() -> None:
    bench = EngineBench()
    bench.engine.note_refused(BE, Refusal.INVALID)
    assert count(bench, "requests_refused_total", "be", "invalid") == 1


async def test_choices_of_which_one_is_refused_are_counted_as_nothing_that_came_or_ended() -> None:
    bench = EngineBench(max_ls_requests=2)
    before = page(bench)
    for number in range(3):
        with pytest.raises(Overloaded):
            bench.engine.submit_choices([bench.request(f"{number} {choice}", 2) for choice in range(3)])
    assert page(bench) == before
    bench.engine.submit_choices([bench.request(f"choice {choice}", 2) for choice in range(2)])
    bench.work()
    assert ends(bench) == {("ls", "length"): 2}
