"""Says in words what a view of a trace shows, from the same data as the picture: the text to stand below it."""

from qllm.client.bench.results.recorded_trace import BE, LS, RecordedTrace, Stop, View


def caption(trace: RecordedTrace, view: View) -> str:
    """Returns one line: the view's length, latency-sensitive first tokens, and where best-effort work stopped."""
    stops = [stop for stop in trace.stops if stop.lane is BE and view.begin_ms <= stop.begin_ms <= view.end_ms]
    span = f"{view.end_ms - view.begin_ms:.0f} ms of one worker."
    return " ".join([span, *_answers(trace, view), *(_stop(stop) for stop in stops)])


def _answers(trace: RecordedTrace, view: View) -> list[str]:
    first_tokens = {moment.name: moment.at_ms for moment in trace.first_tokens}
    arrivals = [m for m in trace.arrivals if m.lane is LS and view.shows(m.at_ms, m.at_ms)]
    waits_ms = [first_tokens[m.name] - m.at_ms for m in arrivals if m.name in first_tokens]
    return [f"A latency-sensitive request arrives and has its first token {ms:.0f} ms later." for ms in waits_ms]


def _stop(stop: Stop) -> str:
    where = f"Best-effort work stops at {stop.place}"
    if stop.end_ms is None:
        return f"{where} and stands there when the trace ends."
    return f"{where} and goes on from there {stop.end_ms - stop.begin_ms:.0f} ms later."
