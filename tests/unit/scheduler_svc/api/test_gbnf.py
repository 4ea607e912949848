"""Grammars in the notation of llama.cpp are taken, too, and refused with words that name both notations."""

import pytest

from scheduler_svc.api.gbnf import MAX_GBNF_BYTES, in_lark
from scheduler_svc.errors import InvalidRequest


@pytest.mark.parametrize(
    "grammar", ['start: "a"', '?start: "a" // root ::= b', 'start: a\na: "::="', "nothing at all", "%llguidance {}"]
)
def test_what_is_no_gbnf_stays_as_it_is(grammar: str) -> None:
    assert in_lark("field", grammar) == grammar


def test_gbnf_begins_at_root_and_lark_at_start() -> None:
    assert 'start: "a" | "b"' in " ".join(in_lark("field", 'root ::= "a" | "b"').split())


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ('expr ::= "b"', "No 'root' rule"),
        ('start ::= "a"\nroot ::= start', "'start' already exists"),
        ("root ::= other", "'other' not found"),
        ('root ::= "a', "Unexpected end"),
        ("root ::= " + "(" * 5000, "recursion"),
        ("root ::= " + '"a" ' * MAX_GBNF_BYTES, f"at most {MAX_GBNF_BYTES} bytes of GBNF"),
    ],
)
def test_gbnf_that_cannot_be_read_is_refused_with_the_reason(grammar: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^field: got ") as refusal:
        in_lark("field", grammar)
    assert reason in str(refusal.value)
    assert "start:" in str(refusal.value)
    assert len(str(refusal.value)) < 700
