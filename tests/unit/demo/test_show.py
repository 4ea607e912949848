import io

import pytest
from qllm.client.bench.load.target import Ask, Chunk
from qllm.client.bench.load.workload import BE, LS
from rich.console import Console

from demo.show import LiveShow, PlainShow, Show, make_show

STOPPED = {"num_preemptions_at_expert": 2, "num_preemptions_at_layer": 1, "be_num_generated_tokens": 7}


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100, height=40, force_terminal=True, color_system=None)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def last_picture(console: Console) -> str:
    return said(console)[said(console).rindex("a part") :]


def answer(show: Show, ask: Ask, *texts: str) -> None:
    show.sent(ask)
    for text in texts:
        show.received(ask, Chunk(1, token_ids=(1,), text=text))
    show.ended(ask)


def test_a_pipe_gets_plain_lines_and_a_terminal_gets_lanes(console: Console) -> None:
    assert isinstance(make_show(Console(file=io.StringIO())), PlainShow)
    assert isinstance(make_show(console), LiveShow)


def test_plain_lines_tell_parts_phases_latency_sensitive_answers_and_stops(console: Console) -> None:
    show = PlainShow(console)
    show.entitle("first part")
    show.begin("measuring", 20.0)
    answer(show, Ask(BE, "x", 1, 5), "hidden")
    answer(show, Ask(LS, "x", 1, 10**9), "hidden")
    show.counted(STOPPED)
    part, phase, ls, counters = said(console).splitlines()
    assert (part, phase) == ("== first part", " - measuring, 20 s")
    assert ls.startswith("   latency-sensitive request   1: first token ")
    assert counters.strip() == (
        "best-effort work stopped 2 times between experts, 1 times between layers; 7 tokens of it"
    )


def test_every_latency_sensitive_answer_has_its_line_however_many_wait(console: Console) -> None:
    show = PlainShow(console)
    asks = [Ask(LS, "x", 1, index) for index in range(30)]
    for ask in asks:
        show.sent(ask)
    for ask in asks:
        show.received(ask, Chunk(1))
        show.ended(ask)
    numbers = [line.split(":")[0].split()[-1] for line in said(console).splitlines()]
    assert numbers == [str(number) for number in range(1, 31)]


def test_lanes_show_texts_as_they_grow_and_the_oldest_that_are_over_make_room(console: Console) -> None:
    with LiveShow(console) as show:
        show.entitle("a part")
        for number in range(20):
            answer(show, Ask(BE, "x", 2, number), f"early {number}.")
        show.sent(ask := Ask(LS, "x", 2, 0))
        show.received(ask, Chunk(1, text="def"))
        show.received(ask, Chunk(2, text=" f"))
    picture = last_picture(console)
    assert "  3 tokens" in picture
    assert "def f" in picture
    assert "early 8." in picture
    assert "early 7." not in picture


def test_a_stop_is_shown_until_the_counters_stand_still(console: Console) -> None:
    with LiveShow(console) as show:
        show.entitle("a part")
        show.counted(STOPPED)
        show.begin("one")
        while_stopping = last_picture(console)
        show.counted(STOPPED)
        show.begin("two")
    assert "stopped inside a layer" in while_stopping
    assert "stopped inside a layer" not in last_picture(console)


def test_counters_that_the_service_did_not_tell_leave_the_last_ones() -> None:
    show = Show()
    show.counted(STOPPED)
    show.counted({})
    assert show.counters == STOPPED


def test_a_new_part_begins_with_empty_lanes_and_counts_anew() -> None:
    show = Show()
    answer(show, Ask(LS, "x", 1, 0), "a")
    show.entitle("another")
    assert not show.lanes[LS]
    answer(show, Ask(LS, "x", 1, 1), "b")
    assert show.lanes[LS][0].number == 1
