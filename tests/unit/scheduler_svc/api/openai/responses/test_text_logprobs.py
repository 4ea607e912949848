"""Which tokens are those of an answer's text, however both are cut."""

from scheduler_svc.api.openai.question import JsonObject
from scheduler_svc.api.openai.responses.text_logprobs import TextLogprobs


def tokens(*texts: bytes) -> list[JsonObject]:
    return [{"bytes": [*text]} for text in texts]


def data(given: list[JsonObject]) -> list[bytes]:
    return [bytes(token["bytes"]) for token in given]  # type: ignore[call-overload]


def test_marks_and_what_stands_behind_are_left_out() -> None:
    found = TextLogprobs()
    found.add(tokens(b"<think>", b"a", b"</think>", b"\n\n", b"a ", b"b", b"<call>", b"a b", b"</s>"))
    found.shown("a")
    assert data(found.shown("a b")) == [b"a ", b"b"]


def test_a_token_is_told_with_the_text_that_it_begins() -> None:
    found = TextLogprobs()
    found.add(tokens(b"so. "))
    assert data(found.shown("so.")) == [b"so. "]
    found.add(tokens(b"Th", b"en"))
    assert data(found.shown(" Then")) == [b"Th", b"en"]


def test_a_character_of_several_tokens_has_all_of_them() -> None:
    first, second = "\u20ac".encode()[:1], "\u20ac".encode()[1:]
    found = TextLogprobs()
    found.add(tokens(first))
    found.add(tokens(second))
    assert data(found.shown("\u20ac")) == [first, second]


def test_what_calls_were_written_with_is_no_later_texts() -> None:
    found = TextLogprobs()
    found.add(tokens(b"<call>", b"a", b"</call>"))
    found.forget()
    found.add(tokens(b"a"))
    assert data(found.shown("a")) == [b"a"]


def test_of_a_text_that_is_in_several_places_nothing_is_told() -> None:
    found = TextLogprobs()
    found.add(tokens(b"a", b"<call>", b"b"))
    assert found.shown("ab") == []
    assert found.shown("b") == []
