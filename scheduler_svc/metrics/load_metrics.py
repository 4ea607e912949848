"""Makes metrics of loads. Counters go on where the last worker's ended, so that a new worker is no step backwards."""

from collections import defaultdict
from collections.abc import Callable, Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from scheduler_svc.generation import ClassLoad, Loads
from scheduler_svc.metrics.labels import CLASS, PREFIX
from scheduler_svc.metrics.load_metric import BE, LS, LoadMetric, Samples, by_class, by_label, one
from scheduler_svc.metrics.memory_metrics import MEMORY_COUNTERS, MEMORY_GAUGES


def _by_target(name: str, help_: str, read: Callable[[ClassLoad], tuple[int, int, int]]) -> LoadMetric:
    def samples(loads: Loads) -> Samples:
        first_token, time_per_token, both = read(loads.latency_sensitive)
        return {
            (LS, "first_token"): first_token,
            (LS, "time_per_token"): time_per_token,
            (LS, "both"): both,
        }

    return LoadMetric(name, help_, (CLASS, "target"), samples)


def _predicted_waits(loads: Loads) -> Samples:
    waits_ms = {LS: loads.latency_sensitive.predicted_wait_ms, BE: loads.best_effort.predicted_wait_ms}
    return {(name,): wait_ms / 1e3 for name, wait_ms in waits_ms.items() if wait_ms is not None}


_GAUGES = (
    by_class(
        "num_requests_running",
        "Requests in a batch, or between two of their tokens.",
        lambda load: load.running + load.queued_decode,
    ),
    by_class(
        "num_requests_waiting", "Requests that wait for their prompt to be computed.", lambda load: load.queued_prefill
    ),
    by_class("num_requests_offloaded", "Requests whose cache was moved off the device.", lambda load: load.offloaded),
    LoadMetric(
        "predicted_wait_seconds",
        "Predicted time until a further request would be begun, were there none of the other class. Absent while it is "
        "not known.",
        (CLASS,),
        _predicted_waits,
    ),
    one(
        "kv_cache_usage_perc",
        "Used part of the K/V cache; 1 is all of it.",
        lambda loads: 1 - loads.free_blocks / loads.total_blocks if loads.total_blocks else 0.0,
    ),
    one(
        "be_share",
        "Part of the worker's time that best-effort work had in the last --be-window-s; 1 is all of it.",
        lambda loads: loads.be_share,
    ),
    one(
        "wait_bound_seconds",
        "Bound on how long a latency-sensitive arrival waits for best-effort work that runs.",
        lambda loads: loads.wait_bound_ms / 1e3,
    ),
    one(
        "outstanding_work_seconds",
        "Estimated time of the work that was sent to the worker and is not done.",
        lambda loads: loads.outstanding_ms / 1e3,
    ),
    *MEMORY_GAUGES,
)
_COUNTERS = (
    by_class("prompt_tokens_total", "Prompt tokens computed.", lambda load: load.num_prompt_tokens),
    by_class("generation_tokens_total", "Tokens generated.", lambda load: load.num_generated_tokens),
    by_class("worker_busy_seconds_total", "Worker time.", lambda load: load.busy_ns / 1e9),
    one(
        "worker_idle_while_work_waited_seconds_total",
        "Time that the worker stood idle between steps while work waited.",
        lambda loads: loads.control_idle_ns / 1e9,
    ),
    _by_target(
        "target_requests_total",
        "Requests of which it is known whether they met a target: the first token, the time per token, or both.",
        lambda load: (load.num_first_tokens, load.num_paced, load.num_judged),
    ),
    _by_target(
        "target_requests_met_total",
        "Requests that met the target.",
        lambda load: (load.num_first_tokens_in_time, load.num_paced_in_time, load.num_attained),
    ),
    by_label(
        "stops_total",
        "Times a running batch was left standing: before a layer, or between two experts of a layer.",
        "place",
        lambda loads: {"layer": loads.num_preemptions_at_layer, "expert": loads.num_preemptions_at_expert},
    ),
    one("joins_total", "Times batches were advanced jointly.", lambda loads: loads.num_joins),
    one(
        "riders_total",
        "Best-effort requests that rode in latency-sensitive iterations, counted once for each iteration.",
        lambda loads: loads.num_riders,
    ),
    one("iterations_total", "Batches that went through all layers.", lambda loads: loads.num_iterations),
    one("commands_total", "Steps that the worker answered.", lambda loads: loads.num_commands),
    one("offloads_total", "Times a request's cache was moved off the device.", lambda loads: loads.num_offloads),
    one(
        "promotions_total", "Times best-effort work went first because of its age.", lambda loads: loads.num_promotions
    ),
    *MEMORY_COUNTERS,
)


class LoadMetrics:
    """The loads of a service, whose counters outlive its workers."""

    def __init__(self) -> None:
        self._past: dict[tuple[str, tuple[str, ...]], float] = defaultdict(float)
        self._num_workers_lost = 0

    def worker_lost(self, last: Loads) -> None:
        """Keeps the counters of a worker that is gone."""
        self._num_workers_lost += 1
        for metric in _COUNTERS:
            for label_values, value in metric.read(last).items():
                self._past[metric.name, label_values] += value

    def families(self, loads: Loads, *, worker_is_ready: bool) -> Iterator[Metric]:
        """Yields each metric with its samples."""
        yield GaugeMetricFamily(f"{PREFIX}worker_ready", "1 while a worker serves, else 0.", float(worker_is_ready))
        yield CounterMetricFamily(
            f"{PREFIX}workers_lost_total", "Workers that ended or were lost.", self._num_workers_lost
        )
        for metric in _GAUGES:
            gauge = GaugeMetricFamily(PREFIX + metric.name, metric.help, labels=metric.label_names)
            for label_values, value in metric.read(loads).items():
                gauge.add_metric(label_values, value)
            yield gauge
        for metric in _COUNTERS:
            counter = CounterMetricFamily(PREFIX + metric.name, metric.help, labels=metric.label_names)
            for label_values, value in metric.read(loads).items():
                counter.add_metric(label_values, self._past[metric.name, label_values] + value)
            yield counter
