"""The page of parameters is made of the code, and its ranges are those that are enforced."""

import pytest

from scheduler_svc.api import sampling, validation
from scheduler_svc.api.openai.wire.field_texts import text_of
from scripts.parameters import PAGE, page


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == page(), "run `make parameters`"


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("temperature", f"[0, {sampling.MAX_TEMPERATURE:g}]"),
        ("repetition_penalty", f"[{sampling.MIN_REPETITION_PENALTY:g}, {sampling.MAX_REPETITION_PENALTY:g}]"),
        ("presence_penalty", f"[-{sampling.MAX_PENALTY:g}, {sampling.MAX_PENALTY:g}]"),
        ("frequency_penalty", f"[-{sampling.MAX_PENALTY:g}, {sampling.MAX_PENALTY:g}]"),
        (
            "logit_bias",
            f"At most {sampling.MAX_BIASES} tokens, each in [-{sampling.MAX_BIAS:g}, {sampling.MAX_BIAS:g}]",
        ),
        ("allowed_token_ids", f"At most {sampling.MAX_ALLOWED_TOKENS}."),
        ("bad_words", f"At most {sampling.MAX_BAD_WORDS}, each of 1 to {sampling.MAX_BAD_WORD_BYTES} bytes"),
        ("top_logprobs", f"[0, {sampling.MAX_TOP_LOGPROBS}]"),
        ("stop", f"At most {validation.MAX_STOP_STRINGS}, each of 1 to {validation.MAX_STOP_STRING_BYTES} bytes"),
        ("stop_token_ids", f"At most {validation.MAX_STOP_TOKEN_IDS}."),
        ("ttft_ms", f"[0, {validation.MAX_TTFT_MS:.0f}]"),
        ("tpot_ms", f"[0, {validation.MAX_TPOT_MS:.0f}]"),
    ],
)
def test_a_range_that_is_told_is_the_one_that_is_enforced(field: str, words: str) -> None:
    assert words in str(text_of(field))
