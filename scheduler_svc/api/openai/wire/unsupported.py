"""The fields that clients send and this service does not have: which ones are dropped, and which values are.

Nothing that changes the output is dropped silently: a field below is dropped with a value that asks for what happens
anyway, and refused with any other; a field that is nowhere is refused.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TypeAlias

from scheduler_svc.wording import shown

NeutralValues: TypeAlias = Mapping[str, tuple[object, ...]]

# Labels and hints for the provider, and what is said of images, which no prompt here has: no value of them changes what
# is generated.
IGNORED_FIELDS = frozenset(
    {
        "media_io_kwargs",
        "metadata",
        "mm_payload",
        "mm_processor_kwargs",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "request_id",
        "return_mm_kwargs",
        "safety_identifier",
        "store",
        "stream_interval",
        "user",
    }
)

# vLLM's fields for what is not here at all, as below.
_OF_VLLM: NeutralValues = {
    "ec_transfer_params": (),
    "kv_transfer_params": (),
    "logprob_token_ids": (),
    "prompt_embeds": (),
    "repetition_detection": (),
    "return_prompt_text": (False,),
    "return_token_offsets": (False,),
    "routed_experts_prompt_start": (0,),
    "thinking_token_budget": (),
    "truncation_side": (),
    "vllm_xargs": ({},),
    "watermarking": (False,),
}
# Values that ask for what happens anyway; null always does.
_NEUTRAL: NeutralValues = {
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "prompt_logprobs": (),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
}
NEUTRAL_IN_COMPLETIONS: NeutralValues = {
    **_OF_VLLM,
    **_NEUTRAL,
    "add_special_tokens": (True,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}
NEUTRAL_IN_CHAT: NeutralValues = {
    **_OF_VLLM,
    **_NEUTRAL,
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "audio": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "include_reasoning": (True,),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "reasoning_effort": (),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
# What the SDK's own messages hold when they are sent back as a part of the conversation.
NEUTRAL_IN_MESSAGES: NeutralValues = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "name": (),
    "refusal": (),
    "tool_calls": ([],),
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A field that cannot be dropped, and what would be allowed, if anybody knows such a field."""

    field: str
    given: object
    allowed: str
    is_known: bool = True


def first_refusal(
    given: Mapping[str, object], known: Set[str], neutral: NeutralValues, ignored: Set[str]
) -> Refusal | None:
    """Returns the first of the given fields that is not known and cannot be dropped."""
    for field, value in given.items():
        if field in known or field in ignored:
            continue
        if field not in neutral:
            return Refusal(field, value, "", is_known=False)
        if value is not None and value not in neutral[field]:
            allowed = " or ".join(map(shown, (*neutral[field], None)))
            return Refusal(field, value, f"{allowed}: nothing else is supported")
    return None
