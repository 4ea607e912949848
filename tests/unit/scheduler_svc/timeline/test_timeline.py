from typing import Any

from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, Sequence, StopConditions
from scheduler_svc.timeline import Timeline


class Events(list[Any]):
    def add(self, event: object) -> None:
        self.append(event)


def sequence() -> Sequence:
    stop = StopConditions(max_tokens=5)
    return Sequence(SeqId(7), RequestClass.LATENCY_SENSITIVE, (1, 2, 3), SamplingParams(), stop, arrival_s=10.0)


def spans(events: Events) -> list[tuple[str, str, float]]:
    return [(e["ph"], e["name"], e["ts"]) for e in events if e["ph"] in "bne"]


def test_lanes_are_named_first_and_no_prompt_is_ever_written() -> None:
    events = Events()
    Timeline(events, 0.0).request_arrived(sequence())
    assert [e["ph"] for e in events[:-1]] == ["M"] * (len(events) - 1)
    assert events[-1]["args"] == {"sequence": 7, "num_prompt_tokens": 3, "max_tokens": 5}


def test_a_request_goes_from_arrival_through_its_phases_to_its_end() -> None:
    events, live = Events(), sequence()
    timeline = Timeline(events, origin_s=9.0)
    timeline.request_arrived(live)
    live.first_run_s = 10.5
    live.append(4, 11.0)
    live.append(5, 12.0)
    timeline.request_ended(live, 12.0)
    assert spans(events) == [
        ("b", "latency-sensitive request", 1e6),
        ("b", "queued", 1e6),
        ("e", "queued", 1.5e6),
        ("b", "prefill", 1.5e6),
        ("e", "prefill", 2e6),
        ("b", "decode", 2e6),
        ("e", "decode", 3e6),
        ("n", "first token", 2e6),
        ("e", "latency-sensitive request", 3e6),
    ]


def test_a_request_that_never_ran_ends_in_the_queue() -> None:
    events, live = Events(), sequence()
    timeline = Timeline(events, origin_s=10.0)
    timeline.request_arrived(live)
    timeline.request_ended(live, 13.0)
    assert spans(events)[1:3] == [("b", "queued", 0.0), ("e", "queued", 3e6)]
    assert spans(events)[-1] == ("e", "latency-sensitive request", 3e6)
