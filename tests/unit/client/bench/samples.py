"""Hand-made records, rows and results."""

from qllm.client.bench.load.measurement import Measurement, Window
from qllm.client.bench.load.record import DONE, RequestRecord, RequestRow
from qllm.client.bench.load.target import Chunk, Ending, TargetFacts
from qllm.client.bench.load.workload import BE, LS, Lengths
from qllm.client.bench.results.goodput import Level, ServerGoodput
from qllm.client.bench.results.goodput_search import Rule
from qllm.client.bench.results.result_file import Provenance, Result
from qllm.client.bench.results.spread import Spread
from qllm.client.bench.results.summary import Objective, Targets, summarize
from qllm.client.messages import RequestClass

LENGTHS = Lengths(10, 4)
NO_OBJECTIVES = {LS: Objective(), BE: Objective()}


def record(
    request_class: RequestClass,
    at_s: float,
    *chunks: tuple[float, int],
    end_s: float | None = None,
    sent_s: float | None = None,
    failure: str | None = None,
    queue_ms: float | None = None,
) -> RequestRecord:
    """A request that brought so many tokens at such times; unfinished unless it has an end."""
    made = RequestRecord(request_class, 0, at_s, LENGTHS, at_s if sent_s is None else sent_s)
    for chunk_s, num_tokens in chunks:
        made.take(Chunk(num_tokens), chunk_s)
    if failure is not None:
        made.fail(failure, end_s or at_s)
    elif end_s is not None:
        made.finish(Ending(queue_ms=queue_ms), end_s)
    return made


def row(
    request_class: RequestClass = LS,
    *,
    ttft_ms: float | None = 10.0,
    last_token_ms: float | None = 40.0,
    total_ms: float = 40.0,
    num_tokens: int = 4,
    outcome: str = DONE,
    at_ms: float = 0.0,
) -> RequestRow:
    return RequestRow(
        request_class, 0, at_ms, 0.5, total_ms, ttft_ms, last_token_ms, 12.0, None, 10, num_tokens, outcome
    )


def measurement(*records: RequestRecord, idle: tuple[RequestRecord, ...] = (), seconds: float = 10.0) -> Measurement:
    return Measurement.of(idle, list(records), Window(0.0, seconds), {"num_joins": 3}, {"HTTP 500": "it broke"})


def result(label: str = "ours", *, ttft_s: float = 0.1, num_requests: int = 5) -> Result:
    """A result of some requests of both classes."""
    idle = tuple(record(LS, float(i), (i + 0.05, 1), (i + 0.2, 3), end_s=i + 0.2) for i in range(3))
    ls = [record(LS, i / 2, (i / 2 + ttft_s, 1), (i / 2 + 1, 3), end_s=i / 2 + 1) for i in range(num_requests)]
    be = [record(BE, i / 2, (i / 2 + 1, 2), (i / 2 + 2, 2), end_s=i / 2 + 2) for i in range(num_requests)]
    measured = measurement(*ls, *be, idle=idle)
    return Result.of(
        measured,
        summarize(measured, {LS: Objective(ttft_ms=200.0), BE: Objective()}),
        label=label,
        provenance=Provenance(("qllm-client", "bench", label), "2026-01-02T03:04:05+00:00", {"seed": 0}, {"cpu": "x"}),
        target=TargetFacts("grpc", "127.0.0.1:1", "mini", 100, {"policy": "qllm"}),
        is_interrupted=False,
    )


def window(num_met: int, num_requests: int, num_be_tokens: int = 0, *, seconds: float = 10.0) -> Measurement:
    """A window in which so many of the latency-sensitive requests had their first token after 100 ms, others 1 s."""
    ls = [
        record(LS, at_s, (at_s + ttft_s, 1), (at_s + ttft_s + 0.09, 3), end_s=at_s + 2)
        for number in range(num_requests)
        for at_s, ttft_s in [(number / num_requests * seconds, 0.1 if number < num_met else 1.0)]
    ]
    be = [record(BE, 0.0, (seconds / 2, num_be_tokens))] if num_be_tokens else []
    return Measurement.of((), [*ls, *be], Window(0.0, seconds), {}, {})


def server(label: str = "ours", *, boundary: int = 4, most: int = 8) -> ServerGoodput:
    """A search that is over: up to `boundary` clients hold, each of whom makes 10 tokens a second."""
    rule, objective = Rule(0.9, 2, 2), Objective(150.0, 50.0)
    counts = [count for count in (0, 1, 2, 4, 8, 16) if count <= most]
    levels = [
        Level.of(
            count, [window(20 if count <= boundary else 5, 20, 100 * count + end) for end in (0, 2)], objective, rule
        )
        for count in counts
    ]
    return ServerGoodput(
        label=label,
        provenance=Provenance(
            ("qllm-client", "bench", "goodput", label), "2026-01-02T03:04:05+00:00", {}, {"cpu": "x"}
        ),
        target=TargetFacts("grpc", "127.0.0.1:1", "mini", 100, {"policy": "qllm"}),
        is_interrupted=False,
        goal=0.9,
        targets=Targets(1.5, 50.0),
        objective=objective,
        idle_ttft=Spread.of([100.0]),
        idle_tpot=Spread.of([30.0]),
        levels=tuple(levels),
        messages={"HTTP 500": "it broke"},
    )
