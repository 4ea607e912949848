"""What Prometheus scrapes of a running service tells the requests that it served, on both ports."""

import http.client
import os
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from qllm.v1 import inference_pb2 as pb

from tests.support.service.live_service import ROOT, LiveService, free_port, start_service
from tests.support.service.simulated_worker import INSTANT

NUM_SILENT = 100
PATIENCE_S = 300
Samples = dict[tuple[str, ...], float]


def scrape(port: int) -> Samples:
    """Returns what a page says, by name without the prefix and by the labels' values."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    assert (response.status, response.headers.get_content_type()) == (200, "text/plain")
    families = text_string_to_metric_families(response.read().decode())
    connection.close()
    samples = [one for family in families for one in family.samples]
    return {(one.name.removeprefix("qllm:"), *one.labels.values()): one.value for one in samples}


def generate(service: LiveService, request_class: "pb.RequestClass.ValueType", **request: object) -> None:
    stop = pb.StopConditions(max_tokens=5, ignore_eos=True)
    message = pb.GenerateRequest(request_class=request_class, text="def f(", stop=stop, **request)  # type: ignore[arg-type]
    with service.channel() as channel:
        for _ in service.inference(channel).Generate(message, timeout=PATIENCE_S):
            pass


def added(before: Samples, after: Samples) -> Samples:
    """Returns what is more than before."""
    return {key: value - before[key] for key, value in after.items() if value > before[key]}


def test_both_ports_count_the_requests_of_each_class(
    live_service: LiveService, http_port: int, metrics_port: int
) -> None:
    before = scrape(metrics_port)
    for request_class in (
        pb.REQUEST_CLASS_LATENCY_SENSITIVE,
        pb.REQUEST_CLASS_BEST_EFFORT,
        pb.REQUEST_CLASS_BEST_EFFORT,
    ):
        generate(live_service, request_class)
    for port in (http_port, metrics_port):
        more = added(before, scrape(port))
        for label, num in (("ls", 1), ("be", 2)):
            assert more["request_success_total", label, "length"] == num
            assert more["generation_tokens_total", label] == 5 * num
            assert more["prompt_tokens_total", label] >= num
            for name in ("time_to_first_token", "request_queue_time", "e2e_request_latency"):
                assert more[f"{name}_seconds_count", label] == num
            assert more["request_time_per_output_token_seconds_count", label] == num
            assert more["e2e_request_latency_seconds_sum", label] > more["time_to_first_token_seconds_sum", label] > 0


def test_refusals_are_counted_by_class_and_reason(live_service: LiveService, metrics_port: int) -> None:
    before = scrape(metrics_port)
    with pytest.raises(grpc.RpcError):
        generate(live_service, pb.REQUEST_CLASS_BEST_EFFORT, sampling=pb.SamplingParams(temperature=1000))
    assert added(before, scrape(metrics_port)) == {("requests_refused_total", "be", "invalid"): 1}


def test_what_a_page_says_of_the_worker_is_what_the_loads_say(live_service: LiveService, metrics_port: int) -> None:
    page, loads = scrape(metrics_port), live_service.loads()
    assert page["worker_ready",] == 1
    assert page["wait_bound_seconds",] == pytest.approx(loads.wait_bound_ms / 1e3, rel=0.5)
    assert page["stops_total", "expert"] == loads.num_preemptions_at_expert
    assert page["joins_total",] == loads.num_joins
    assert 0 <= page["be_share",] <= 1


def test_a_page_holds_nothing_of_prompts_and_ids(live_service: LiveService, metrics_port: int) -> None:
    generate(live_service, pb.REQUEST_CLASS_LATENCY_SENSITIVE, request_id="a-secret-id")
    labels = {label for key in scrape(metrics_port) for label in key[1:]}
    words = {label for label in labels if not label.replace(".", "").isdigit()}
    assert words == {
        *("ls", "be", "stop", "length", "abort", "error", "overload", "invalid", "duplicate", "no_worker", "other"),
        *("wait", "tokens", "deadline", "stopping", "quota", "denied"),
        *("succeeded", "failed", "cancelled", "expired"),
        *("layer", "expert", "first_token", "time_per_token", "both", "+Inf"),
        *("prefixes", "sessions", "free", "host", "disk"),
    }


def test_silent_clients_of_the_metrics_port_harm_neither_scrapers_nor_requests(
    live_service: LiveService, metrics_port: int
) -> None:
    with ExitStack() as flood:
        for _ in range(NUM_SILENT):
            silent = flood.enter_context(socket.create_connection(("127.0.0.1", metrics_port)))
            silent.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert scrape(metrics_port)["worker_ready",] == 1
        generate(live_service, pb.REQUEST_CLASS_LATENCY_SENSITIVE)
        assert len(os.listdir(f"/proc/{live_service.process.pid}/fd")) < NUM_SILENT


def test_counters_go_on_when_the_worker_is_replaced(log: Path) -> None:
    port = free_port()
    with start_service(ROOT / "demo/model", log, "--metrics-port", str(port), worker_options=INSTANT) as service:
        generate(service, pb.REQUEST_CLASS_LATENCY_SENSITIVE)
        before = scrape(port)
        os.kill(service.worker_pid(), signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_S
        while not (now := scrape(port))["workers_lost_total",] or not now["worker_ready",]:
            assert time.monotonic() < deadline, service.log.read_text()[-4000:]
            time.sleep(0.05)
        generate(service, pb.REQUEST_CLASS_LATENCY_SENSITIVE)
        more = added(before, scrape(port))
    assert more["generation_tokens_total", "ls"] == more["request_success_total", "ls", "length"] * 5 == 5
    assert more["workers_lost_total",] == 1
