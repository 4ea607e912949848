"""Tiny random models of many families, and what `transformers` itself generates from them."""

from functools import cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

BASE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # far from the default: every position and every expert shows in the output
}
MOE: dict[str, Any] = {"intermediate_size": 96, "moe_intermediate_size": 48, "num_experts_per_tok": 2}
LATENT: dict[str, Any] = {
    **MOE,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
# Each family's settings over BASE: as few as make it tiny.
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"intermediate_size": 96, "num_local_experts": 8, "sliding_window": None},
    "qwen2_moe": {**MOE, "shared_expert_intermediate_size": 64, "num_experts": 8},
    "qwen3_moe": {**MOE, "head_dim": 16, "num_experts": 16},
    "olmoe": {"intermediate_size": 48, "num_experts": 8, "num_experts_per_tok": 2},
    "phimoe": {"intermediate_size": 96, "num_local_experts": 8},
    "gpt_oss": {
        "head_dim": 16,
        "intermediate_size": 64,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "sliding_window": 16,
    },
    "glm4_moe": {
        **MOE,
        "head_dim": 16,
        "n_routed_experts": 8,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
    },
    "granitemoe": {"intermediate_size": 96, "num_local_experts": 8, "num_experts_per_tok": 2},
    "deepseek_v2": {**LATENT, "q_lora_rank": None, "n_group": 1, "topk_group": 1},
    "deepseek_v3": {**LATENT, "q_lora_rank": 32, "n_group": 2, "topk_group": 1},
    "dots1": {
        **MOE,
        "head_dim": 16,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
    },
    "flex_olmo": {"intermediate_size": 48, "num_experts": 8, "num_experts_per_tok": 2},
    "ernie4_5_moe": {"intermediate_size": 96, "moe_intermediate_size": 48, "moe_num_experts": 8, "moe_k": 2},
    "minimax_m2": {"head_dim": 16, "intermediate_size": 48, "num_local_experts": 8, "num_experts_per_tok": 2},
    "hunyuan_v1_moe": {"head_dim": 16, "intermediate_size": 96, "num_experts": 8, "moe_topk": 2},
}


def random_model(family: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **settings: Any) -> Any:
    """A new random model of a family; settings go over the family's own."""
    config = AutoConfig.for_model(family, **(BASE | FAMILIES.get(family, {}) | settings))
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@cache
def generated(
    family: str, prompts: tuple[tuple[int, ...], ...], num_tokens: int, dtype: torch.dtype = torch.float32
) -> tuple[tuple[int, ...], ...]:
    """Greedy output of `generate` for each prompt alone."""
    model = random_model(family, dtype=dtype)
    outputs = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([prompt])
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False, use_cache=True
            )
            outputs.append(tuple(output[0, len(prompt) :].tolist()))
    return tuple(outputs)
