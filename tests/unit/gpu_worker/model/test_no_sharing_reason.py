"""Where a model gives no reason against it, a sequence goes on from rows that another computed, as `generate` would."""

from dataclasses import replace

import pytest
import torch

from gpu_worker.model.loader import adopt_model
from tests.support.models.families import generated, random_model
from tests.support.worker.worker_driver import Driver, Story, loaded, random_prompts

# K/V; windows on some layers, with sinks; layers of two widths; latent; latent or not with indexers
SHARING = ("mixtral", "gpt_oss", "gemma4_text", "deepseek_v3", "glm_moe_dsa", "minimax_m3_vl_text")
NUM_TOKENS = 8
BLOCK_SIZE = 4
(PROMPT,) = random_prompts((43,), seed=5)  # longer than the window and the indexer's choice of the tiny models
SHARED = 24  # tokens


def _add_sharing(driver: Driver, first: Story) -> Story:
    """Adds a sequence that is given the first blocks of another, and has computed no row itself."""
    return driver.add(PROMPT, NUM_TOKENS, shared=first.block_ids[: SHARED // BLOCK_SIZE])


@pytest.mark.parametrize("chunk", [10_000, 5])
@pytest.mark.parametrize("family", SHARING)
def test_a_sequence_that_begins_in_the_middle_of_a_shared_text_gets_the_tokens_of_generate(
    family: str, chunk: int
) -> None:
    model = loaded(family)
    assert model.no_sharing_reason == ""
    driver = Driver(model, block_size=BLOCK_SIZE)
    first = driver.add(PROMPT[: SHARED + 2], NUM_TOKENS)
    driver.advance(driver.start(first))
    stories = [_add_sharing(driver, first) for _ in range(2)]
    driver.finish(first, *stories, chunk=chunk)
    assert first.token_ids == generated(family, (PROMPT[: SHARED + 2],), NUM_TOKENS)[0]
    assert [story.token_ids for story in stories] == [*generated(family, (PROMPT,), NUM_TOKENS)] * 2
    driver.check_nothing_left()


def test_rows_of_another_width_in_k_than_in_v_are_shared_too() -> None:
    model = random_model("mimo_v2_flash", v_head_dim=8)
    ids = torch.tensor([PROMPT])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_TOKENS, do_sample=False)
    driver = Driver(adopt_model(random_model("mimo_v2_flash", v_head_dim=8), name="wide"), block_size=BLOCK_SIZE)
    first = driver.add(PROMPT[: SHARED + 2], NUM_TOKENS)
    driver.advance(driver.start(first))
    story = _add_sharing(driver, first)
    driver.finish(first, story)
    assert story.token_ids == tuple(output[0, len(PROMPT) :].tolist())


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("qwen3_next", "layers 0, 1, 2 keep a state that is not K/V"),
        ("minimax", "layer 1 keeps a state that is not K/V"),
        ("deepseek_v4", "layers 1, 2, 3 keep a state that is not K/V"),
    ],
)
def test_a_model_with_states_or_memories_of_its_own_says_which_layers_have_them(family: str, reason: str) -> None:
    assert loaded(family).no_sharing_reason == reason


def test_a_deep_model_names_a_few_of_its_layers() -> None:
    deep = replace(loaded(), state_layers=tuple(range(0, 40, 2)))
    assert deep.no_sharing_reason == "layers 0, 2, 4, 6, 8, 10, 12, 14 and 12 others keep a state that is not K/V"
