"""The fields of OpenAI's and vLLM's requests, each with a value that asks for nothing and one that asks for something.

What becomes of them here stands in the code of the service; a test sends each. Sources: the types of the package
openai (a test compares), and vLLM 0.32's API reference of its two requests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MODEL = "the served model's name"


@dataclass(frozen=True, slots=True)
class Asked:
    """One field.

    Attributes:
        neutral: A value that asks for what happens anyway.
        other: A value that asks for something.
        also: Fields without which `other` makes no sense.
    """

    neutral: object
    other: object
    also: Mapping[str, object] = field(default_factory=dict)


_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {"name": "now", "description": "Tells the time.", "parameters": {"type": "object", "properties": {}}},
}
_BEAMS = {"use_beam_search": True, "temperature": 0, "n": 2}

OPENAI_IN_BOTH = {
    "frequency_penalty": Asked(0, 0.5),
    "logit_bias": Asked({}, {"5": 1}),
    "max_tokens": Asked(None, 2),
    "model": Asked(None, MODEL),
    "n": Asked(1, 2),
    "presence_penalty": Asked(0, 0.5),
    "seed": Asked(None, 7),
    "stop": Asked([], ["zz"]),
    "stream": Asked(False, True),
    "stream_options": Asked(None, {"include_usage": True}, {"stream": True}),
    "temperature": Asked(1, 0.5),
    "top_p": Asked(1, 0.5),
    "user": Asked("", "somebody"),
}
OPENAI_IN_CHAT = {
    "audio": Asked(None, {"format": "wav", "voice": "alloy"}),
    "function_call": Asked("none", {"name": "now"}),
    "functions": Asked([], [_TOOL["function"]]),
    "logprobs": Asked(False, True),
    "max_completion_tokens": Asked(None, 2),
    "messages": Asked(
        [{"role": "user", "content": "hi"}], [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    ),
    "metadata": Asked({}, {"a": "b"}),
    "modalities": Asked(["text"], ["text", "audio"]),
    "moderation": Asked(None, {"model": "omni-moderation-latest"}),
    "parallel_tool_calls": Asked(True, False),
    "prediction": Asked(None, {"type": "content", "content": "hi"}),
    "prompt_cache_key": Asked("", "a"),
    "prompt_cache_options": Asked(None, {"mode": "implicit"}),
    "prompt_cache_retention": Asked(None, "24h"),
    "reasoning_effort": Asked(None, "high"),
    "response_format": Asked({"type": "text"}, {"type": "json_object"}),
    "safety_identifier": Asked("", "a"),
    "service_tier": Asked("auto", "flex"),
    "store": Asked(False, True),
    "tool_choice": Asked("none", "required", {"tools": [_TOOL]}),
    "tools": Asked([], [_TOOL]),
    "top_logprobs": Asked(0, 2, {"logprobs": True}),
    "verbosity": Asked(None, "low"),
    "web_search_options": Asked(None, {"search_context_size": "low"}),
}
OPENAI_IN_COMPLETIONS = {
    "best_of": Asked(1, 2),
    "echo": Asked(False, True),
    "logprobs": Asked(None, 2),
    "prompt": Asked("hi", [5, 6]),
    "suffix": Asked("", "end"),
}
VLLM_IN_BOTH = {
    "allowed_token_ids": Asked(None, [5, 6]),
    "bad_words": Asked([], ["zz"]),
    "cache_salt": Asked(None, "salt"),
    "ec_transfer_params": Asked(None, {"a": 1}),
    "ignore_eos": Asked(False, True),
    "include_stop_str_in_output": Asked(False, True, {"stop": ["zz"]}),
    "kv_transfer_params": Asked(None, {"do_remote_prefill": True}),
    "length_penalty": Asked(1.0, 2.0, _BEAMS),
    "logprob_token_ids": Asked(None, [5]),
    "min_p": Asked(0, 0.1),
    "min_tokens": Asked(0, 1),
    "mm_payload": Asked("tensors", "none"),
    "priority": Asked(0, 1),
    "prompt_logprobs": Asked(None, 1),
    "repetition_detection": Asked(None, {"max_pattern_size": 4, "min_pattern_size": 1, "min_count": 3}),
    "repetition_penalty": Asked(1, 1.1),
    "request_id": Asked(None, "mine"),
    "response_format": Asked({"type": "text"}, {"type": "json_object"}),
    "return_mm_kwargs": Asked(None, True),
    "return_token_ids": Asked(False, True),
    "return_token_offsets": Asked(False, True),
    "return_tokens_as_token_ids": Asked(False, True),
    "routed_experts_prompt_start": Asked(0, 1),
    "session_id": Asked(None, "program"),
    "skip_special_tokens": Asked(True, False),
    "spaces_between_special_tokens": Asked(True, False),
    "stop_token_ids": Asked([], [5]),
    "stream_interval": Asked(1, 2),
    "structured_outputs": Asked(None, {"choice": ["a", "b"]}),
    "thinking_token_budget": Asked(None, 5),
    "top_k": Asked(0, 5),
    "truncate_prompt_tokens": Asked(None, 4),
    "truncation_side": Asked(None, "right"),
    "use_beam_search": Asked(False, True, {"temperature": 0, "n": 2}),
    "vllm_xargs": Asked({}, {"a": 1}),
    "watermarking": Asked(False, True),
    # Of earlier versions, which many clients still send.
    "guided_choice": Asked(None, ["a", "b"]),
    "guided_decoding_backend": Asked("auto", "outlines"),
    "guided_grammar": Asked(None, 'start: "a"'),
    "guided_json": Asked(None, {"type": "integer"}),
    "guided_json_object": Asked(False, True),
    "guided_regex": Asked(None, "a|b"),
    "guided_whitespace_pattern": Asked(None, " "),
    "logits_processors": Asked([], ["a"]),
}
VLLM_IN_CHAT = {
    "add_generation_prompt": Asked(True, False),
    "add_special_tokens": Asked(False, True),
    "chat_template": Asked(None, "{{ messages[0].content }}"),
    "chat_template_kwargs": Asked({}, {"enable_thinking": False}),
    "continue_final_message": Asked(False, True, {"add_generation_prompt": False}),
    "documents": Asked([], [{"title": "a", "text": "b"}]),
    "echo": Asked(False, True),
    "include_reasoning": Asked(True, False),
    "media_io_kwargs": Asked(None, {"image": {}}),
    "mm_processor_kwargs": Asked(None, {"a": 1}),
    "return_prompt_text": Asked(False, True),
}
VLLM_IN_COMPLETIONS = {
    "add_special_tokens": Asked(True, False),
    "prompt_embeds": Asked(None, "AAAA"),
}
