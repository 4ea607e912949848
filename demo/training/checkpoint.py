"""Owns the shape of the demo models on disk: their configs' shared settings and how a checkpoint is written.

A checkpoint is a plain Hugging Face folder (config, generation config, safetensors, tokenizer) that loads without
remote code. Knows nothing about training.
"""

import copy
import tempfile
from pathlib import Path

import torch
from transformers import GenerationConfig, MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from demo.training.tokenizer import BOS, PAD, token_id

NUM_EXPERTS = 8
NUM_EXPERTS_PER_TOKEN = 2


def make_config(
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden_size: int,
    num_layers: int,
    intermediate_size: int,
    num_heads: int,
    num_key_value_heads: int,
    max_tokens: int,
    tie_embeddings: bool,
    eos_token_id: int | list[int],
) -> MixtralConfig:
    """Returns the config of a Mixtral with eight experts, two a token, that fits the tokenizer."""
    return MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        intermediate_size=intermediate_size,
        num_attention_heads=num_heads,
        num_key_value_heads=num_key_value_heads,
        head_dim=hidden_size // num_heads,
        num_local_experts=NUM_EXPERTS,
        num_experts_per_tok=NUM_EXPERTS_PER_TOKEN,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=tie_embeddings,
        sliding_window=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=token_id(tokenizer, BOS),
        eos_token_id=eos_token_id,
        pad_token_id=token_id(tokenizer, PAD),
    )


def quiet_transformers() -> None:
    """Turns transformers' progress bars off; the scripts print their own progress."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def count_parameters(model: MixtralForCausalLM) -> int:
    """Returns the number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def save_checkpoint(
    model: MixtralForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, dtype: torch.dtype
) -> int:
    """Writes the model in ``dtype`` and its tokenizer, file by file in one move each; other files in the folder stay.

    Returns:
        The size of the checkpoint's files in bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    converted = model if model.dtype == dtype else copy.deepcopy(model)
    torch.nn.Module.to(converted, dtype)  # transformers wraps model.to without its types
    converted.generation_config = _generation_config(converted.config)
    size_bytes = 0
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        converted.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        for path in sorted(Path(scratch).iterdir()):
            size_bytes += path.stat().st_size
            path.chmod(0o644)  # safetensors writes files that only their owner can read
            path.replace(folder / path.name)
    return size_bytes


def _generation_config(config: MixtralConfig) -> GenerationConfig:
    return GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
