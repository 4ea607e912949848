"""Tiny random models of every family, and what `transformers` itself generates from them."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCAB_SIZE = 512
# What a family's configuration is given of these is what it has a name for.
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "sliding_window": 16,
    "initializer_range": 0.3,  # far from the default: every position and every expert shows in the output
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    # mixtures
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 64,
    "moe_shared_expert_intermediate_size": 64,
    "shared_intermediate_size": 64,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "moe_num_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    # latent attention, indexers
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "index_topk": 16,
    "index_n_heads": 4,
    "index_head_dim": 16,
    # linear attention, state spaces
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
    "mamba_d_head": 16,
    "mamba_n_heads": 8,
}
# What a family needs besides, to be tiny or to have layers of each of its kinds.
HINTS: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"num_hidden_layers": 8},
    "beam": {"num_hidden_layers": 4},
    "deepseek_v2": {"q_lora_rank": None},
    "deepseek_v3": {"n_group": 2},
    "deepseek_v4": {  # of each kind of layer, with windows that the table's prompts close several times
        "num_hidden_layers": 4,
        "layer_types": [
            "sliding_attention",
            "compressed_sparse_attention",
            "heavily_compressed_attention",
            "compressed_sparse_attention",
        ],
        "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "index_topk": 4,
    },
    "dots3_note_text": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "gemma4_text": {
        "vocab_size_per_layer_input": VOCAB_SIZE,
        "hidden_size_per_layer_input": 16,
        "enable_moe_block": True,
        "top_k_experts": 2,
        "num_kv_shared_layers": 0,
    },
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba"]},
    "jamba": {"num_hidden_layers": 8},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "mixtral": {"sliding_window": None},
    "qwen3_5_moe_text": {"num_hidden_layers": 4},
    "qwen3_5_text": {"num_hidden_layers": 4},
    "qwen3_moe": {"num_experts": 16},
    "qwen3_next": {"num_hidden_layers": 4},
    "qwen4_exp_text": {
        "num_hidden_layers": 4,
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
        "hc_lowrank": 16,
        "ngram_vocab_size_base": 100,
    },
    "zaya": {"num_experts_per_tok": 1},
}
# Families that every promise is tested with: K/V, windows, sinks, latent K/V; states that are not K/V, an indexer; no
# mixture. docs/families.md has what becomes of all others, and a test runs each of them once.
FAMILIES = (
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "olmoe",
    "phimoe",
    "gpt_oss",
    "glm4_moe",
    "granitemoe",
    "deepseek_v3",
    "qwen3_next",
    "jamba",
    "glm_moe_dsa",
    "llama",
)
_MOST_PARAMETERS = 200_000_000
_EXPERTS = "@use_experts_implementation"


def mixture_families() -> list[str]:
    """Model types of all causal language models whose code has experts behind transformers' interface."""
    found = []
    for family, class_name in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()):
        module = getattr(transformers, class_name, object).__module__
        if module.startswith("transformers.") and module.split(".")[-2] in _modules_with_experts():
            found.append(family)
    return found


def multimodal_families() -> list[str]:
    """Modules with such experts that have no causal language model of text alone."""
    with_text = (getattr(transformers, name, object).__module__ for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    return sorted(_modules_with_experts() - {module.split(".")[-2] for module in with_text if "." in module})


@cache
def _modules_with_experts() -> frozenset[str]:
    models = Path(transformers.__file__).parent / "models"
    found = (path.parent.name for path in models.glob("*/modeling_*.py") if _EXPERTS in path.read_text())
    return frozenset(found)


def tiny_config(family: str, **settings: Any) -> Any:
    """A configuration of a family in which everything is small; settings go over the family's own."""
    config = AutoConfig.for_model(family)
    own = _tiny_settings(config)
    for name in getattr(config, "sub_configs", {}):
        part = getattr(config, name, None)
        if name == "text_config" and part is not None:
            own[name] = _tiny_settings(part)
    return AutoConfig.for_model(family, **(own | settings))


def _tiny_settings(config: Any) -> dict[str, Any]:
    settings = {name: size for name, size in SIZES.items() if _has(config, name)}
    # Latent attention: heads are no groups, widths its own.
    if "qk_rope_head_dim" in settings and config.qk_rope_head_dim:
        settings["num_key_value_heads"] = SIZES["num_attention_heads"]
        settings.pop("head_dim", None)
    return settings | HINTS.get(config.model_type, {})


def _has(config: Any, name: str) -> bool:
    try:
        return hasattr(config, name)
    except Exception:  # some configurations raise for what differs by layer
        return False


def random_model(family: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **settings: Any) -> Any:
    """A new random model of a family; settings go over the family's own."""
    config = tiny_config(family, **settings)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
    if size > _MOST_PARAMETERS:
        raise ValueError(f"{family} has {size} parameters: its table of hints lacks a size")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    if dtype is torch.float32:
        return model
    # Some torch draws something else in a narrow type.
    narrow = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    narrow.load_state_dict(model.state_dict())
    return narrow


@cache
def generated(
    family: str,
    prompts: tuple[tuple[int, ...], ...],
    num_tokens: int,
    dtype: torch.dtype = torch.float32,
    chunk: int | None = None,
    repetition_penalty: float | None = None,
) -> tuple[tuple[int, ...], ...]:
    """Greedy output of `generate` for each prompt alone, prefilled in chunks of so many tokens or at once."""
    model = random_model(family, dtype=dtype)
    outputs = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([prompt])
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=num_tokens,
                do_sample=False,
                use_cache=True,
                prefill_chunk_size=chunk,
                repetition_penalty=repetition_penalty,
            )
            outputs.append(tuple(output[0, len(prompt) :].tolist()))
    return tuple(outputs)
