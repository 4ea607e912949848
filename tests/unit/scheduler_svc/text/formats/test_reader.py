"""What is found in an answer, however its text is cut into pieces."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_svc.text.formats.pieces import MAX_HELD_CHARS, Call, Found, Function
from scheduler_svc.text.formats.reader import AnswerReader
from scheduler_svc.text.formats.table import CALL_FORMATS, Formats

PARAMETERS = {"properties": {"text": {"type": "string"}, "count": {"type": "integer"}, "more": {}}}
HERMES, TIME_CALL = "<tool_call>", '<tool_call>{"name": "time", "arguments": {}}</tool_call>'
DEEPSEEK = "<｜tool▁call▁begin｜>"
DEEPSEEK_CALL = f"{DEEPSEEK}time<｜tool▁sep｜>{{}}<｜tool▁call▁end｜>"
CHANNELS = "<|channel|>"
COMMENTARY, FINAL = "<|channel|>commentary<|message|>", "<|channel|>final<|message|>"
FUNCTIONS = [Function("weather", PARAMETERS), Function("time")]
ALL_MARKS = [
    *(word for entry in CALL_FORMATS.values() for word in entry.new("").words),
    "<think>",
    "</think>",
    "<function=weather>",
    "<parameter=text>",
    "function",
    "```json",
    '{"name": "time", "parameters": {}}',
    '{"name": "time", "arguments": {}}',
    "[TOOL_CALLS]time{",
    "to=functions.time",
    ";",
    "{",
    '"',
    "}",
    "\\",
    "\n",
    " ",
    "a",
]


def found_in(template: str, pieces: Sequence[str], *, is_thinking: bool = False) -> Found:
    reader = AnswerReader(Formats.of(template), FUNCTIONS, is_thinking=is_thinking)
    found = [*map(reader.push, pieces), reader.finish()]
    return Found(
        "".join(one.text for one in found),
        "".join(one.reasoning for one in found),
        tuple(call for one in found for call in one.calls),
    )


def json_call(name: str, arguments: dict[str, Any]) -> str:
    return json.dumps({"name": name, "arguments": arguments})


def hermes(calls: Sequence[tuple[str, dict[str, Any]]]) -> str:
    return "\n".join(f"<tool_call>\n{json_call(*call)}\n</tool_call>" for call in calls)


def mistral(calls: Sequence[tuple[str, dict[str, Any]]]) -> str:
    return f"[TOOL_CALLS][{', '.join(json_call(*call) for call in calls)}]" if calls else ""


def mistral_newer(calls: Sequence[tuple[str, dict[str, Any]]]) -> str:
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments)}" for name, arguments in calls)


def llama(calls: Sequence[tuple[str, dict[str, Any]]]) -> str:
    return "; ".join(json.dumps({"name": name, "parameters": arguments}) for name, arguments in calls)


def deepseek(calls: Sequence[tuple[str, dict[str, Any]]]) -> str:
    parts = (
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{json.dumps(arguments)}\n```<｜tool▁call▁end｜>"
        for name, arguments in calls
    )
    return f"<｜tool▁calls▁begin｜>{chr(10).join(parts)}<｜tool▁calls▁end｜>"


def deepseek_newer(calls: Sequence[tuple[str, dict[str, Any]]]) -> str:
    parts = (
        f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{json.dumps(arguments)}<｜tool▁call▁end｜>"
        for name, arguments in calls
    )
    return f"<｜tool▁calls▁begin｜>{''.join(parts)}<｜tool▁calls▁end｜>"


def shown(key: str, value: Any) -> str:
    return value if key == "text" else json.dumps(value)


def glm(calls: Sequence[tuple[str, dict[str, Any]]]) -> str:
    return "\n".join(
        f"<tool_call>{name}\n"
        + "".join(
            f"<arg_key>{key}</arg_key>\n<arg_value>{shown(key, value)}</arg_value>\n"
            for key, value in arguments.items()
        )
        + "</tool_call>"
        for name, arguments in calls
    )


def qwen_coder(calls: Sequence[tuple[str, dict[str, Any]]]) -> str:
    return "\n".join(
        f"<tool_call>\n<function={name}>\n"
        + "".join(f"<parameter={key}>\n{shown(key, value)}\n</parameter>\n" for key, value in arguments.items())
        + "</function>\n</tool_call>"
        for name, arguments in calls
    )


WRITERS = {
    "hermes": ("<tool_call>", hermes),
    "mistral": ("[TOOL_CALLS]", mistral),
    "mistral, newer": ("[TOOL_CALLS]", mistral_newer),
    "llama": ("<|python_tag|>", llama),
    "deepseek": ("<｜tool▁call▁begin｜>", deepseek),
    "deepseek, newer": ("<｜tool▁call▁begin｜>", deepseek_newer),
    "glm": ("<arg_key>", glm),
    "qwen-coder": ("<function=", qwen_coder),
}
TEXTS = st.text(alphabet=st.characters(exclude_characters="<>｜[]", exclude_categories=("Cs",)), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | TEXTS.map(lambda text: f"t{text}"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "text": TEXTS.map(lambda text: text.strip() + "</tool_call"),
        "count": st.integers(0, 99),
        "more": st.dictionaries(TEXTS, VALUES, max_size=2),
    },
)
CALLS = st.lists(st.tuples(st.sampled_from(["weather", "time"]), ARGUMENTS), min_size=1, max_size=3)


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """Cuts a text into pieces."""
    places = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8 if len(text) > 40 else len(text))))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("name", WRITERS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_calls_are_found_however_the_text_is_cut(name: str, data: st.DataObject) -> None:
    template, written = WRITERS[name]
    calls = data.draw(CALLS)
    before = "" if name == "llama" else data.draw(st.sampled_from(["", "I look.", "a < b [TOOL"]))
    text = before + ("\n" if before else "") + written(calls)
    found = found_in(template, data.draw(cut(text)))
    assert [(call.name, json.loads(call.arguments)) for call in found.calls] == calls
    assert (found.text, found.reasoning) == (before, "")
    assert found_in(template, list(text)) == found


@pytest.mark.parametrize("template", [text for entry in CALL_FORMATS.values() for text in entry.shown_by])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_text_reads_the_same_however_it_is_cut(template: str, data: st.DataObject) -> None:
    text = "".join(data.draw(st.lists(st.sampled_from(ALL_MARKS), max_size=14)))
    is_thinking = data.draw(st.booleans())
    template += "<think>" if data.draw(st.booleans()) else ""
    whole = found_in(template, [text], is_thinking=is_thinking)
    assert found_in(template, data.draw(cut(text)), is_thinking=is_thinking) == whole
    assert found_in(template, list(text), is_thinking=is_thinking) == whole
    for call in whole.calls:
        assert isinstance(json.loads(call.arguments), dict)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("<tool_call>", '<tool_call>{"name": "time", "arguments": {}'),
        ("<tool_call>", '<tool_call>{"name": "time", "arguments": {}}} </tool_call>'),
        ("<tool_call>", '<tool_call>{"name": "time", "arguments": []}</tool_call>'),
        ("<tool_call>", '<tool_call>{"name": "time", "arguments": {"a": NaN}}</tool_call>'),
        ("<tool_call>", '<tool_call>{"name": "time", "arguments": {"a": 1e999}}</tool_call>'),
        ("<tool_call>", '<tool_call>{"name": 5}</tool_call>'),
        ("<tool_call>", "<tool_call>" + "[" * 100_000),
        ("<tool_call>", '<tool_call>{"name": "time", "arguments": {"a": ' + "1" * 5000 + "}}</tool_call>"),
        ("[TOOL_CALLS]", "[TOOL_CALLS][]"),
        ("[TOOL_CALLS]", '[TOOL_CALLS]time["a"]'),
        ("<|python_tag|>", '{"name": "time"}'),
        ("<|python_tag|>", '{"name": "unknown", "parameters": {}}'),
        ("<|python_tag|>", '{"name": "time", "parameters": {}, "and": 1}'),
        ("<|python_tag|>", 'Say {"name": "time", "parameters": {}}'),
        ("<arg_key>", "<tool_call>time\n<arg_key>a</arg_key>\n"),
        ("<arg_key>", "<tool_call>ti"),
        ("<function=", "<tool_call>\n<function=time>\n<parameter=a>\n1"),
        ("<｜tool▁call▁begin｜>", "<｜tool▁call▁begin｜>time<｜tool▁sep｜>no"),
    ],
)
def test_what_only_looks_like_a_call_stays_text(template: str, text: str) -> None:
    for pieces in ([text], [text[start : start + 7] for start in range(0, len(text), 7)]):
        assert found_in(template, pieces) == Found(text)


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ('<tool_call>{"name": "time", "arguments": {}}', Call("time", "{}")),  # the end was not written
        ('<tool_call>{"name": "time"}</tool_call>', Call("time", "{}")),
        ('<tool_call>{"name": "time", "arguments": "{\\"a\\": 1}"}</tool_call>', Call("time", '{"a": 1}')),
        ('<tool_call>{"name": "time", "arguments": {"a": "\n"}}</tool_call>', Call("time", '{"a": "\\n"}')),
        ('<tool_call>{"name": "other", "arguments": {}}</tool_call>', Call("other", "{}")),
        ('<tool_call>{"name": "time", "arguments": {"a": "\\ud83d"}}</tool_call>', Call("time", '{"a": "\\ud83d"}')),
    ],
)
def test_what_models_get_slightly_wrong_is_a_call(text: str, call: Call) -> None:
    assert found_in("<tool_call>", [text]) == Found(calls=(call,))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<think>\nhm\n</think>\n\nHello", Found("Hello", "hm")),
        ("\n<think></think>Hello", Found("Hello")),
        ("<think>hm", Found("", "hm")),
        ("  Hello <think>", Found("  Hello <think>")),
        ("<thin", Found("<thin")),
        ("", Found()),
    ],
)
def test_thoughts_stand_before_the_text(text: str, found: Found) -> None:
    for pieces in ([text], list(text)):
        assert found_in("<think>", pieces) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<|channel|>final<|message|>Hello", Found("Hello")),
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hi", Found("Hi", "hm")),
        (
            '<|channel|>commentary to=functions.time <|constrain|>json<|message|>{"a": 1}<|call|>',
            Found(calls=(Call("time", '{"a": 1}'),)),
        ),
        (
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant to=functions.time<|channel|>commentary"
            "<|message|>{}",
            Found("", "hm", (Call("time", "{}"),)),
        ),
        (" to=functions.time<|channel|>commentary<|message|>{}<|call|>", Found(calls=(Call("time", "{}"),))),
        ("<|channel|>commentary<|message|>First.<|end|>", Found("First.")),
        ("<|channel|>commentary to=functions.time<|message|>{", Found("{")),
        ("plain", Found("plain")),
        ("<|channel|>ana", Found()),
    ],
)
def test_channels_are_told_apart(text: str, found: Found) -> None:
    for pieces in ([text], list(text)):
        assert found_in("<|channel|>", pieces) == found


@pytest.mark.parametrize(
    ("template", "text", "found"),
    [
        (HERMES, f"First this.\n{TIME_CALL}\nThen that.", "First this.\nThen that."),
        (HERMES, f"First.\n\n{TIME_CALL}\nThen.", "First.\n\nThen."),
        (HERMES, f"First.{TIME_CALL}\n{TIME_CALL} Then.", "First.\nThen."),
        (HERMES, f"First {TIME_CALL} then", "First then"),
        (HERMES, f"a{TIME_CALL}b", "ab"),
        (HERMES, f"\n{TIME_CALL}\nThen.\n", "Then.\n"),
        (HERMES, f"First.\n{TIME_CALL}\n", "First."),
        (HERMES, f"First.{TIME_CALL}{' ' * 1000}\nThen.", f"First.{' ' * MAX_HELD_CHARS}Then."),
        (CHANNELS, f"{COMMENTARY}I look.<|end|><|start|>assistant{FINAL}Hello<|return|>", "I look.\nHello"),
        (CHANNELS, f"{COMMENTARY}I look.\n\n<|end|><|start|>assistant{FINAL}Hello", "I look.\n\nHello"),
        (CHANNELS, f"{COMMENTARY}<|end|><|start|>assistant{FINAL}Hello\n", "Hello\n"),
    ],
)
def test_texts_around_a_call_stay_apart(template: str, text: str, found: str) -> None:
    for pieces in ([text], list(text)):
        assert found_in(template, pieces).text == found


def test_thoughts_of_several_messages_stay_apart() -> None:
    text = "".join(f"<|channel|>analysis<|message|>{one}<|end|><|start|>assistant" for one in ("a", "b\n\n", "c"))
    for pieces in ([text], list(text)):
        assert found_in(CHANNELS, pieces).reasoning == "a\nb\n\nc"


def test_whoever_writes_white_space_for_long_has_it_shown() -> None:
    reader = AnswerReader(Formats.of(HERMES), FUNCTIONS)
    shown = [reader.push("\n").text for _ in range(MAX_HELD_CHARS + 50_000)]
    assert "".join(shown) == "\n" * 50_000
    assert reader.finish().text == "\n" * MAX_HELD_CHARS


@pytest.mark.parametrize(
    ("template", "text", "num_calls"),
    [
        (HERMES, f'<tool_call>{{"name": "time", "arguments": {{"a": "x}}}}</tool_call>\n{TIME_CALL} bye', 1),
        (HERMES, f'<tool_call>{{"name": "time", "arguments": {{"a": 1}}</tool_call>\n{TIME_CALL}', 1),
        (HERMES, f'<tool_call>{{"name": "time", "arguments": {{}}}}}}</tool_call>{TIME_CALL}{TIME_CALL}', 2),
        (HERMES, f"<tool_call>{{<tool_call>{TIME_CALL}", 1),
        ("[TOOL_CALLS]", '[TOOL_CALLS][{"name": "[TOOL_CALLS]time[ARGS]{}', 1),
        ("[TOOL_CALLS]", f"[TOOL_CALLS]{'x' * 300}[TOOL_CALLS]time{{}}", 1),
        ("<arg_key>", "<tool_call>time\n<arg_key>a</arg_key>\n<tool_call>time\n</tool_call>", 1),
        ("<arg_key>", f"<tool_call>{'x' * 300}<tool_call>time\n</tool_call>", 1),
        ("<function=", "<tool_call><function=f><parameter=<tool_call><function=time></function></tool_call>", 1),
        (DEEPSEEK, f"<｜tool▁call▁begin｜>{'x' * 300}{DEEPSEEK_CALL}", 1),
        (DEEPSEEK, f"<｜tool▁call▁begin｜>time<｜tool▁sep｜>{{{DEEPSEEK_CALL}", 1),
    ],
)
def test_calls_behind_one_that_is_broken_are_found(template: str, text: str, num_calls: int) -> None:
    found = found_in(template, [text])
    assert [call.name for call in found.calls] == ["time"] * num_calls
    assert found.text
    assert found_in(template, list(text)) == found


def test_what_is_read_again_is_bounded() -> None:
    # Each of these begins a string of JSON that goes on to the end, where all but the first would be read again.
    text = '<tool_call>{"' + "\\" * 70_000 + TIME_CALL
    for pieces in ([text], [text[start : start + 999] for start in range(0, len(text), 999)]):
        assert found_in(HERMES, pieces) == Found(text)
    many = "<｜tool▁call▁begin｜>" * 20_000
    assert found_in(DEEPSEEK, [many]) == Found(many)


@pytest.mark.parametrize("joint", ["\n", "; ", " ;\n", "", "\n<|python_tag|>"])
def test_calls_of_bare_json_may_stand_on_lines_of_their_own(joint: str) -> None:
    text = joint.join(['{"name": "time", "parameters": {}}'] * 3)
    for pieces in ([text], list(text)):
        assert found_in("<|python_tag|>", pieces) == Found(calls=(Call("time", "{}"),) * 3)


@pytest.mark.parametrize("depth", [60, 70, 900, 990, 1010, 100_000])
@pytest.mark.parametrize(
    ("template", "head", "tail"),
    [
        (CHANNELS, "<|channel|>commentary to=functions.time<|message|>", ""),
        (HERMES, '<tool_call>{"name": "time", "arguments": ', "}</tool_call>"),
        ("<function=", "<tool_call><function=time><parameter=more>", "</parameter></function></tool_call>"),
    ],
)
def test_no_depth_that_a_model_writes_is_an_error(template: str, head: str, tail: str, depth: int) -> None:
    nested = '{"a":' * depth + "1" + "}" * depth
    found = found_in(template, [head + nested + tail])
    assert len(found.calls) == (1 if depth == 60 or template == "<function=" else 0)
    for call in found.calls:
        assert len(call.arguments) >= len(nested)


def test_a_long_answer_takes_no_more_time_a_piece_than_a_short_one() -> None:
    # Quadratic work would take minutes here.
    text = '<tool_call>{"name": "time", "arguments": {"a": "' + "<tool_call>{" * 40_000
    assert found_in("<tool_call>", [text[start : start + 4] for start in range(0, len(text), 4)]) == Found(text)
