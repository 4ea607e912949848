"""What callers write as JSON: all that JSON has is read, and all else is refused by its place."""

import json
import math

import pytest

from scheduler_svc.api.json_text import read_json
from scheduler_svc.errors import InvalidRequest

WRITABLE = [
    {"a": [1, -2.5, 1e308, 1e-400, True, None, "é 🦙 NaN Infinity"]},
    {"escaped": "\\ud83d \\", "pair": "🦙" * 3},
    10**400,
    "",
    [],
]
REFUSED = [
    ('{"a": NaN}', "a", "NaN"),
    ('{"a": {"b": [1, Infinity]}}', "a.b[1]", "Infinity"),
    ("[-Infinity]", "[0]", "-Infinity"),
    ('{"a": 1e309}', "a", "Infinity"),
    ('{"a": -1E+0400}', "a", "-Infinity"),
    ('{"a": 1' + "0" * 320 + ".5}", "a", "Infinity"),
    ('{"a": 1' + "0" * 220 + "e99}", "a", "Infinity"),
    (r'{"a": "x\ud83d"}', "a", r"'x\ud83d'"),
    (r'{"a": "\uDFFF\ud83d"}', "a", "surrogate"),
    (r'{"a": {"\ud83d": 1}}', r"a.\ud83d", r"'\ud83d'"),
    (r'{"a": "\ud83e\udd99", "b": "\\\udd99"}', "b", r"\udd99"),
    ("NaN", "body", "NaN"),
]


@pytest.mark.parametrize("value", WRITABLE, ids=range(len(WRITABLE)))
@pytest.mark.parametrize("ascii_only", [True, False])
def test_what_json_has_is_read(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert read_json(text) == value
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32-be"):
        assert read_json(text.encode(encoding)) == value


@pytest.mark.parametrize(("text", "field", "words"), REFUSED, ids=[text[:20] for text, *_ in REFUSED])
def test_what_could_not_be_written_again_is_refused_by_its_place(text: str, field: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_json(text)
    assert refused.value.field == field
    assert words in str(refused.value)
    str(refused.value).encode()


def test_a_text_inside_a_field_is_called_so() -> None:
    with pytest.raises(InvalidRequest, match=r"tools\[0\]\.parameters\.a\[1\]: got NaN, allowed is a finite number"):
        read_json('{"a": [1, NaN]}', "tools[0].parameters")


@pytest.mark.parametrize("data", [b'"\xed\xa0\xbd"', b'"\xff"', '"\ud83d"'.encode("utf-16-le", "surrogatepass")])
def test_bytes_that_are_no_text_are_no_json(data: bytes) -> None:
    with pytest.raises(ValueError, match="codec"):
        read_json(data)


def test_a_name_of_a_place_is_never_longer_than_a_line() -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_json(json.dumps({"x" * 4000: math.nan}))
    assert refused.value.field == "x" * 100
