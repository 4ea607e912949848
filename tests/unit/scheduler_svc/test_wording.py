"""Values are shown as their senders know them, and never as more than a line."""

import time

import pytest

from scheduler_svc.errors import NOTHING, Amount, InvalidRequest, MissingField, UnknownField, Words
from scheduler_svc.wording import MAX_SHOWN_CHARS, in_one_line, shown


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (1.0, "1.0"),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (-float("inf"), "-Infinity"),
        ("hot", "'hot'"),
        ("it's", '"it\'s"'),
        ("a\nb\ud800", r"'a\nb\ud800'"),
        (b"ab\xff", "the bytes 61 62 ff"),
        ([], "[]"),
        ([None, [True, "a"]], "[null, [true, 'a']]"),
        ((1, 2), "[1, 2]"),
        ({"a": None, "b": {"c": [False]}}, "{'a': null, 'b': {'c': [false]}}"),
        (NOTHING, "nothing"),
        (Words("an item"), "an item"),
        (Amount(3, "bytes or more"), "3 bytes or more"),
        (Amount(1, "bytes or more"), "1 byte or more"),
        ([Amount(1, "messages")], "[1 message]"),
    ],
)
def test_a_value_is_shown_in_the_terms_of_json(given: object, text: str) -> None:
    assert shown(given) == text


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "given", ["x" * 10**7, [1] * 10**6, {str(key): None for key in range(10**5)}, b"x" * 10**6, nested(900)]
)
def test_of_a_large_value_only_the_beginning_is_written(given: object) -> None:
    before_s = time.process_time()
    text = shown(given)
    assert time.process_time() - before_s < 0.1
    assert len(text) == MAX_SHOWN_CHARS
    assert text.endswith("...")


def test_what_a_library_says_is_one_line_without_marks() -> None:
    assert in_one_line('bad "("\n   1 | /(/\n        ^^\n') == 'bad "(" 1 | /(/'


def test_each_error_of_a_field_is_one_sentence() -> None:
    assert str(InvalidRequest("a.b", None, "x:\n  y")) == "a.b: got null, allowed is x: y"
    assert str(UnknownField("a", 1, "")) == "a: there is no such field here"
    assert str(UnknownField("a", 1, "did you mean b?")) == "a: there is no such field here; did you mean b?"
    assert str(MissingField("a")) == "a: it is missing, and required"
