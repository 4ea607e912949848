"""The fields that clients send and this service does not have: which ones are dropped, and which values are.

Nothing that changes the output is dropped silently: a field below is dropped with a value that asks for what happens
anyway, and refused with any other; a field that is nowhere is refused.
"""

from collections.abc import Mapping, Sequence, Set
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
    "guided_decoding_backend": ("auto", "guidance"),
    "guided_json_object": (False,),
    "guided_whitespace_pattern": (),
    "logits_processors": ([],),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
}
NEUTRAL_IN_COMPLETIONS: NeutralValues = {
    **_OF_VLLM,
    **_NEUTRAL,
    "suffix": ("",),
}
NEUTRAL_IN_CHAT: NeutralValues = {
    **_OF_VLLM,
    **_NEUTRAL,
    "add_special_tokens": (False,),
    "audio": (),
    "chat_template": (),
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "verbosity": (),
    "web_search_options": (),
}
# What vLLM's structured_outputs have beside the structure: there is one backend here, and it follows JSON as it is.
NEUTRAL_IN_STRUCTURES: NeutralValues = {
    "backend": ("auto", "guidance"),
    "disable_additional_properties": (False,),
    "disable_any_whitespace": (False,),
    "disable_fallback": (False, True),
    "structural_tag": (),
    "whitespace_pattern": (),
}
# What the SDK's own messages hold when they are sent back as a part of the conversation.
NEUTRAL_IN_MESSAGES: NeutralValues = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "refusal": (),
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A field that cannot be dropped, and what would be allowed, if anybody knows such a field."""

    field: str
    given: object
    allowed: str
    is_known: bool = True


def is_among(given: object, values: Sequence[object]) -> bool:
    """Returns whether a value is one of these: true is no 1, as it is in Python."""
    return any(given == one and isinstance(given, bool) == isinstance(one, bool) for one in values)


def first_refusal(
    given: Mapping[str, object], known: Set[str], neutral: NeutralValues, ignored: Set[str]
) -> Refusal | None:
    """Returns the first of the given fields that is not known and cannot be dropped."""
    for field, value in given.items():
        if field in known or field in ignored:
            continue
        if field not in neutral:
            return Refusal(field, value, "", is_known=False)
        if value is not None and not is_among(value, neutral[field]):
            allowed = " or ".join(map(shown, (*neutral[field], None)))
            return Refusal(field, value, f"{allowed}: nothing else is supported")
    return None
