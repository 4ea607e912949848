"""A model's predictions of a text are measured as the worker computes them, at once and token by token."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from gpu_worker.model.loader import adopt_model
from scripts.engine.quality import predict, windows_of
from tests.support.models.families import VOCAB_SIZE, random_model


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


def test_perplexity_and_choices_are_those_of_the_model_itself() -> None:
    torch.manual_seed(0)
    windows = torch.randint(3, VOCAB_SIZE, (5, 20))
    logits = random_model("mixtral")(windows).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    loaded = adopt_model(random_model("mixtral"), name="mixtral")
    for step in (20, 7, 1):
        found = predict(loaded, windows, beside=2, step=step)
        assert found.perplexity == pytest.approx(math.exp(float(loss)), rel=1e-4)
        assert torch.equal(found.choices, logits.argmax(-1))


def test_texts_are_cut_into_windows_of_one_length(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    texts = [tmp_path / "1", tmp_path / "2"]
    texts[0].write_text("a b a")
    texts[1].write_text("b b a b")
    assert windows_of(tokenizer, texts, 3, most=9).tolist() == [[1, 2, 1], [2, 2, 1]]
    assert windows_of(tokenizer, texts, 3, most=1).tolist() == [[1, 2, 1]]
