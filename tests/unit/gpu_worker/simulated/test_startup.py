"""A simulated model reads a checkpoint's files by the same rules as one that runs."""

import json
from pathlib import Path

import pytest
from qllm.settings import SettingRefused

from gpu_worker.channel.codec import encode_hello
from gpu_worker.settings import GenerationConfig, WorkerConfig
from gpu_worker.simulated.startup import prepare_simulation
from tests.support.models.sample_tokenizers import EOS_ID, byte_level_tokenizer


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A tokenizer, and an end token in each of three files."""
    byte_level_tokenizer().save(str(tmp_path / "tokenizer.json"))
    files = {
        "config": {"eos_token_id": 5},
        "generation_config": {"eos_token_id": [7], "temperature": 0.6, "top_k": 20},
        "tokenizer_config": {"eos_token": "</s>"},
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def config(directory: Path, **changes: object) -> WorkerConfig:
    fields = {"model": str(directory), "control_endpoint": "ipc:///tmp/x", "simulated": "zero", **changes}
    return WorkerConfig(**fields)  # type: ignore[arg-type]


def test_end_tokens_and_sampling_are_those_of_all_files(directory: Path) -> None:
    model = encode_hello(prepare_simulation(config(directory)).hello).model
    assert list(model.eos_token_ids) == [EOS_ID, 5, 7]
    assert (model.default_sampling.temperature, model.default_sampling.top_k) == (0.6, 20)
    assert not model.default_sampling.HasField("top_p")
    aside = encode_hello(prepare_simulation(config(directory, generation_config=GenerationConfig.NONE)).hello).model
    assert not aside.default_sampling.HasField("temperature")
    assert list(aside.eos_token_ids) == [EOS_ID, 5, 7]


def test_longer_texts_than_the_tables_are_refused(directory: Path) -> None:
    with pytest.raises(SettingRefused, match="--max-model-len: got 16777216, allowed with this table is 2 to"):
        prepare_simulation(config(directory, max_model_len=1 << 24))
