"""Where a checkpoint's files speak of the same fact, one rule says who is believed, and nothing is lowered silently."""

from types import SimpleNamespace

import pytest

from gpu_worker.checkpoint.facts import end_token_ids, longest_text, sampling_defaults
from gpu_worker.contract.introduction import SamplingDefaults
from gpu_worker.errors import ModelRefused


def config(longest: int | None = 512, **rope: object) -> SimpleNamespace:
    return SimpleNamespace(model_type="any", max_position_embeddings=longest, rope_parameters=rope)


def test_every_end_token_that_a_file_names_ends_a_text() -> None:
    assert end_token_ids(9, generation_config=[7, 2], config=2, tokenizer=5) == (2, 5, 7)
    assert end_token_ids(9, config=None, tokenizer=None) == ()


@pytest.mark.parametrize("wrong", [9, 99_999, -1, True, "2", 2.0, [[-1]], {"id": 2}])
def test_what_is_no_token_ends_no_text_and_is_warned_of(wrong: object, caplog: pytest.LogCaptureFixture) -> None:
    assert end_token_ids(9, config=[2, wrong]) == (2,)
    assert "eos_token_id of config: left out" in caplog.text


def test_what_the_makers_say_about_sampling_is_taken() -> None:
    given = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": None, "do_sample": True, "eos_token_id": 3}
    assert sampling_defaults(given, 100) == SamplingDefaults(0.6, 20, 0.95, None)
    assert sampling_defaults({}, 100) == SamplingDefaults()


@pytest.mark.parametrize(("top_k", "expected"), [(-1, 0), (0, 0), (50, 50), (1000, 100)])
def test_as_many_tokens_are_kept_as_there_are(top_k: int, expected: int) -> None:
    assert sampling_defaults({"top_k": top_k}, 100).top_k == expected


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0},
        {"top_p": 1.5},
        {"min_p": "much"},
        {"top_k": -2},
        {"top_k": True},
    ],
)
def test_sampling_that_no_request_may_ask_for_is_refused_and_can_be_left_aside(given: dict[str, object]) -> None:
    with pytest.raises(
        ModelRefused, match=rf"generation_config.json: {next(iter(given))} is .*--generation-config none"
    ):
        sampling_defaults(given, 100)


def test_what_is_not_applied_is_said(caplog: pytest.LogCaptureFixture) -> None:
    sampling_defaults({"no_repeat_ngram_size": 3, "typical_p": 1.0}, 100)
    assert [record.getMessage() for record in caplog.records] == [
        "generation_config.json: no_repeat_ngram_size=3 is not supported and not applied"
    ]


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "default"}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}, 2048),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ({"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 128}, 512),
        ({"rope_type": "linear", "factor": 4.0}, 512),
        ({"rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512}, 512),
        ({"full_attention": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512}}, 1024),
    ],
)
def test_a_text_may_be_as_long_as_scaling_reaches(rope: dict[str, object], expected: int) -> None:
    assert longest_text(config(**rope), None) == expected
    assert longest_text(config(**rope), 100) == 100


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_scaling_that_would_change_other_texts_is_not_used_and_that_is_said(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    rope = {"rope_type": kind, "factor": 8.0, "original_max_position_embeddings": 64}
    assert longest_text(config(**rope), None) == 64
    assert "texts of at most 64 tokens, not 512" in caplog.text
    with pytest.raises(ModelRefused, match=rf"got 100, allowed with this model is 2 to 64: beyond, {kind} scaling"):
        longest_text(config(**rope), 100)


def test_longer_texts_than_the_model_was_made_for_are_refused() -> None:
    with pytest.raises(
        ModelRefused, match="--max-model-len: got 513, allowed with this model is 2 to 512: its max_pos"
    ):
        longest_text(config(), 513)


def test_a_model_that_does_not_say_takes_what_is_wished_for() -> None:
    assert longest_text(config(None), 100) == 100
    with pytest.raises(ModelRefused, match="give --max-model-len"):
        longest_text(config(None), None)
