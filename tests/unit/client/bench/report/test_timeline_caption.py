"""The caption says what the picture shows, and nothing that lies outside of it."""

from qllm.client.bench.report.timeline_caption import caption
from qllm.client.bench.results.recorded_trace import BE, LS, Moment, RecordedTrace, Stop, View


def recorded() -> RecordedTrace:
    return RecordedTrace(
        num_layers=6,
        stops=[
            Stop(1, BE, "layer 2, expert 4", 41.0, 76.0),
            Stop(2, LS, "layer 1, expert 0", 50.0, 52.0),
            Stop(3, BE, "layer 5, expert 1", 210.0, None),
        ],
        arrivals=[Moment(LS, "request 7", 40.0), Moment(BE, "request 8", 45.0)],
        first_tokens=[Moment(LS, "request 7", 49.0), Moment(BE, "request 8", 90.0)],
    )


def test_caption_names_wait_place_and_duration_of_what_is_shown() -> None:
    assert caption(recorded(), View(0.0, 138.0)) == (
        "138 ms of one worker. A latency-sensitive request arrives and has its first token 9 ms later. "
        "Best-effort work stops at layer 2, expert 4 and goes on from there 35 ms later."
    )


def test_caption_leaves_out_what_lies_outside_of_the_view() -> None:
    assert caption(recorded(), View(80.0, 200.0)) == "120 ms of one worker."


def test_caption_says_that_a_stop_had_no_end_in_the_trace() -> None:
    assert "layer 5, expert 1 and stands there when the trace ends." in caption(recorded(), View(200.0, 220.0))
