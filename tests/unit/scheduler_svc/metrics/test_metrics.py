"""The page for Prometheus counts each request and each worker's work once, and never goes backwards."""

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from scheduler_svc.core.cache.load import MemoryLoad
from scheduler_svc.core.state.sequence import FinishReason, RequestClass, Usage
from scheduler_svc.errors import Refusal
from scheduler_svc.generation import Loads
from scheduler_svc.metrics import CONTENT_TYPE, Metrics
from scheduler_svc.serving.loads import NO_LOADS
from tests.support.service.fakes import MEMORY, FakeGenerator

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
LOADS = FakeGenerator().loads()
HISTOGRAMS = (
    "time_to_first_token_seconds",
    "request_queue_time_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
)


class Page:
    """What a scrape gives, by name and labels."""

    def __init__(self, metrics: Metrics, loads: Loads = NO_LOADS) -> None:
        families = list(text_string_to_metric_families(metrics.page(loads, worker_is_ready=True).decode()))
        self.names = [family.name for family in families]
        self.samples = {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}
        self.label_names = {name for family in families for one in family.samples for name in one.labels}

    def __getitem__(self, key: tuple[str, ...]) -> float:
        name, *label_values = key
        return self.samples[f"qllm:{name}", *label_values]


def usage(num_output_tokens: int = 5, *, queue_s: float = 0.5, prefill_s: float = 1.0, decode_s: float = 8.0) -> Usage:
    return Usage(10, num_output_tokens, queue_s, prefill_s, decode_s, 0)


def test_a_request_is_timed_once_at_its_first_token_and_once_at_its_end() -> None:
    metrics = Metrics()
    metrics.requests.first_token(LS, usage())
    metrics.requests.ended(LS, FinishReason.STOP, usage())
    page = Page(metrics)
    sums = [page[f"{name}_sum", "ls"] for name in HISTOGRAMS]
    assert sums == [1.5, 0.5, 2.0, 9.5]
    assert [page[f"{name}_count", "ls"] for name in HISTOGRAMS] == [1, 1, 1, 1]
    assert [page[f"{name}_count", "be"] for name in HISTOGRAMS] == [0, 0, 0, 0]
    assert page["request_success_total", "ls", "stop"] == 1


@pytest.mark.parametrize(("reason", "word"), [(FinishReason.ABORTED, "abort"), (None, "error")])
def test_an_answer_that_is_not_whole_is_counted_by_its_end_and_not_timed(
    reason: FinishReason | None, word: str
) -> None:
    metrics = Metrics()
    metrics.requests.ended(BE, reason, usage())
    page = Page(metrics)
    assert page["request_success_total", "be", word] == 1
    assert [page[f"{name}_count", "be"] for name in HISTOGRAMS] == [0, 0, 0, 0]


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    metrics = Metrics()
    metrics.requests.ended(LS, FinishReason.LENGTH, usage(1, decode_s=0.0))
    page = Page(metrics)
    assert page["e2e_request_latency_seconds_count", "ls"] == 1
    assert page["request_time_per_output_token_seconds_count", "ls"] == 0


def test_every_class_reason_and_bucket_is_there_before_anything_has_happened() -> None:
    page = Page(Metrics())
    for word in ("ls", "be"):
        for reason in ("stop", "length", "abort", "error"):
            assert page["request_success_total", word, reason] == 0
        for refusal in Refusal:
            assert page["requests_refused_total", word, refusal.value] == 0
        assert page["request_time_per_output_token_seconds_bucket", word, "0.05"] == 0
        assert page["time_to_first_token_seconds_bucket", word, "0.005"] == 0


def test_refusals_count_by_class_and_reason() -> None:
    metrics = Metrics()
    metrics.requests.refused(BE, Refusal.OVERLOAD)
    assert Page(metrics)["requests_refused_total", "be", "overload"] == 1


def test_loads_are_shown_by_class_in_seconds_and_as_parts_of_one() -> None:
    page = Page(Metrics(), LOADS)
    assert (page["num_requests_waiting", "ls"], page["num_requests_waiting", "be"]) == (1, 100)
    assert page["num_requests_running", "ls"] == LOADS.latency_sensitive.running + 2
    assert page["num_requests_offloaded", "be"] == 4
    assert (page["kv_cache_usage_perc",], page["be_share",]) == (0.0625, 0.25)
    assert page["wait_bound_seconds",] == 0.005
    assert page["worker_idle_while_work_waited_seconds_total",] == 11e-9
    assert (page["stops_total", "layer"], page["stops_total", "expert"]) == (14, 15)
    assert (page["joins_total",], page["riders_total",]) == (16, 19)
    assert page["prefix_cache_hits_total",] == MEMORY.num_cached_tokens
    assert page["offload_seconds_total",] == MEMORY.offload_ns / 1e9
    assert (page["prompt_tokens_total", "ls"], page["generation_tokens_total", "ls"]) == (7, 6)


def test_attainment_of_each_target_is_met_of_all_and_of_latency_sensitive_requests_alone() -> None:
    page = Page(Metrics(), LOADS)
    attainment = {
        target: (page["target_requests_met_total", "ls", target], page["target_requests_total", "ls", target])
        for target in ("first_token", "time_per_token", "both")
    }
    assert attainment == {"first_token": (19, 20), "time_per_token": (12, 16), "both": (5, 10)}
    assert not any(key[0].startswith("qllm:target") and "be" in key for key in page.samples)


def test_the_owners_of_the_cache_add_up_to_all_of_it() -> None:
    owners = {"ls": 4, "be": 30, "prefixes": 12, "sessions": 8, "free": 10}
    fields = ("latency_sensitive_bytes", "best_effort_bytes", "prefix_bytes", "session_bytes", "free_bytes")
    memory = MemoryLoad(total_bytes=64, host_bytes=3, **dict(zip(fields, owners.values(), strict=True)))
    page = Page(Metrics(), replace(LOADS, memory=memory))
    assert {owner: page["kv_cache_bytes", owner] for owner in owners} == owners
    assert sum(value for key, value in page.samples.items() if key[0] == "qllm:kv_cache_bytes") == 64
    assert (page["offloaded_bytes", "host"], page["offloaded_bytes", "disk"]) == (3, 0)


def test_what_was_found_and_moved_goes_on_over_workers_and_what_is_held_does_not() -> None:
    metrics = Metrics()
    metrics.worker_lost(LOADS)
    page = Page(metrics, LOADS)
    assert page["prefix_cache_hits_total",] == 2 * MEMORY.num_cached_tokens
    assert page["recomputed_tokens_total",] == 2 * MEMORY.num_recomputed_tokens
    assert page["kv_cache_bytes", "be"] == MEMORY.best_effort_bytes


def test_counters_go_on_over_workers_and_gauges_do_not() -> None:
    metrics = Metrics()
    before = Page(metrics, LOADS)
    metrics.worker_lost(LOADS)
    between, after = Page(metrics), Page(metrics, replace(LOADS, num_joins=2))
    totals = {key for key in before.samples if key[0].endswith("_total") and key[0] != "qllm:workers_lost_total"}
    assert {key: between.samples[key] for key in totals} == {key: before.samples[key] for key in totals}
    assert (between["num_requests_waiting", "be"], between["kv_cache_usage_perc",]) == (0, 0)
    assert after["joins_total",] == 16 + 2
    assert between["workers_lost_total",] == 1


def test_a_page_has_each_metric_once_with_help_under_our_prefix_and_labels_of_few_values() -> None:
    page = Page(Metrics(), LOADS)
    assert len(page.names) == len(set(page.names)) > 20
    assert all(name.startswith("qllm:") for name in page.names)
    assert page.label_names == {
        "class",
        "finished_reason",
        "reason",
        "le",
        "place",
        "status",
        "target",
        "owner",
        "tier",
    }
    assert len(page.samples) < 375
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def test_items_of_jobs_are_counted_by_how_they_ended() -> None:
    metrics = Metrics()
    for status, number in (("succeeded", 1), ("expired", 3), ("succeeded", 2)):
        metrics.items.ended(status, number)
    page = Page(metrics)
    counts = [page["batch_items_total", status] for status in ("succeeded", "failed", "cancelled", "expired")]
    assert counts == [3, 0, 0, 3]


def test_a_wait_that_is_not_known_is_no_number() -> None:
    known = replace(LOADS, best_effort=replace(LOADS.best_effort, predicted_wait_ms=None))
    page = Page(Metrics(), known)
    assert page["predicted_wait_seconds", "ls"] == 0.25
    assert ("qllm:predicted_wait_seconds", "be") not in page.samples
