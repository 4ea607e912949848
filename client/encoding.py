"""Translates between this package's values and the messages of `qllm.v1`. Knows nothing of channels and calls."""

from typing import Any

from qllm.client.beams import encode_beam_search
from qllm.client.checking import Conversation, as_json, checked_options, checked_prompt, refusal
from qllm.client.errors import InvalidRequest
from qllm.client.messages import (
    GenerateOptions,
    Prompt,
    PromptToken,
    RequestClass,
    TokenLogprob,
    Usage,
)
from qllm.client.tools import encode_calls, encode_choice, encode_tools, encode_variables
from qllm.v1 import inference_pb2 as pb

_CLASSES = {
    RequestClass.LATENCY_SENSITIVE: pb.REQUEST_CLASS_LATENCY_SENSITIVE,
    RequestClass.BEST_EFFORT: pb.REQUEST_CLASS_BEST_EFFORT,
}
# Options that only conversations have.
_OF_CONVERSATIONS = frozenset(
    {"tools", "tool_choice", "required_tool", "single_call", "template_variables"}
    | {"reasoning_effort", "continue_final_message", "add_generation_prompt"}
)


def encode_request(prompt: Prompt, options: GenerateOptions) -> pb.GenerateRequest:
    """Builds the request.

    Raises:
        InvalidRequest: There is no such option, or a value is of another kind (the service checks all other limits).
    """
    options = checked_options(options)
    request_class = RequestClass(options.get("request_class", RequestClass.LATENCY_SENSITIVE))
    try:
        request = pb.GenerateRequest(
            request_id=options.get("request_id", ""),
            request_class=_CLASSES[request_class],
            sampling=_encode_sampling(options),
            stop=_encode_stop(options),
            targets=_encode_targets(options),
            cache_salt=options.get("cache_salt") or "",
            session=_encode_session(options),
            num_top_logprobs=options.get("num_top_logprobs", 0),
            num_prompt_logprobs=options.get("num_prompt_logprobs"),
            truncate_prompt_tokens=options.get("truncate_prompt_tokens"),
            num_choices=options.get("num_choices"),
            best_of=options.get("best_of"),
            show_special_tokens=options.get("show_special_tokens", False),
            add_special_tokens=options.get("add_special_tokens"),
            structure=_encode_structure(options),
            beam_search=encode_beam_search(options),
        )
        _set_prompt(request, prompt)
        _set_tools(request, options)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"the request cannot be encoded: {error}") from error
    return request


def decode_top_logprobs(message: pb.GenerateResponse) -> tuple[tuple[TokenLogprob, ...], ...]:
    """Translates the most probable tokens at the place of each of a message's tokens; empty if not asked for."""
    return tuple(tuple(TokenLogprob(one.token_id, one.logprob) for one in top.tokens) for top in message.top_logprobs)


def decode_prompt_logprobs(message: pb.GenerateResponse) -> tuple[PromptToken, ...]:
    """Translates what a message tells of the prompt's tokens; empty if it tells nothing."""
    told = message.prompt_logprobs
    most = told.num_alternatives
    pairs = [*map(TokenLogprob, told.alternative_ids, told.alternative_logprobs)]
    tops = [tuple(pairs[start : start + most]) for start in range(0, len(pairs), most or 1)] or [()] * len(told.ranks)
    return tuple(map(PromptToken, told.token_ids, told.logprobs, told.ranks, tops))


def decode_usage(usage: pb.Usage) -> Usage:
    """Translates what a generation used."""
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        queue_ms=usage.queue_ms,
        prefill_ms=usage.prefill_ms,
        decode_ms=usage.decode_ms,
        num_preemptions=usage.num_preemptions,
        cached_tokens=usage.cached_tokens,
    )


def _encode_sampling(options: GenerateOptions) -> pb.SamplingParams:
    return pb.SamplingParams(
        temperature=options.get("temperature"),
        top_k=options.get("top_k"),
        top_p=options.get("top_p"),
        min_p=options.get("min_p"),
        typical_p=options.get("typical_p"),
        seed=options.get("seed"),
        repetition_penalty=options.get("repetition_penalty"),
        presence_penalty=options.get("presence_penalty"),
        frequency_penalty=options.get("frequency_penalty"),
        logit_bias=options.get("logit_bias"),
        allowed_token_ids=options.get("allowed_token_ids"),
        bad_words=options.get("bad_words"),
    )


def _encode_stop(options: GenerateOptions) -> pb.StopConditions:
    return pb.StopConditions(
        max_tokens=options.get("max_tokens"),
        min_tokens=options.get("min_tokens"),
        ignore_eos=options.get("ignore_eos", False),
        stop_token_ids=options.get("stop_token_ids", ()),
        stop_strings=options.get("stop", ()),
        include_stop_string=options.get("include_stop_string", False),
    )


def _encode_targets(options: GenerateOptions) -> pb.LatencyTargets:
    return pb.LatencyTargets(ttft_ms=options.get("ttft_ms"), tpot_ms=options.get("tpot_ms"))


def _encode_session(options: GenerateOptions) -> pb.SessionTurn | None:
    """Returns the turn; None where nothing is said of one."""
    session_id, tool = options.get("session_id"), options.get("expects_tool_call") or ""
    is_last = options.get("last_turn", False)
    if session_id is None and not tool and not is_last:
        return None
    return pb.SessionTurn(session_id=session_id or "", expects_tool_call=tool, last_turn=is_last)


def _encode_structure(options: GenerateOptions) -> pb.Structure | None:
    """Returns what the text is to be kept to; None for nothing, and an error for two things."""
    schema, choices = options.get("json_schema"), options.get("choices")
    given = {
        "json_schema": None if schema is None else as_json("json_schema", schema),
        "json_object": options.get("json_object") or None,
        "regex": options.get("regex"),
        "choices": None if choices is None else pb.Choices(texts=choices),
        "lark": options.get("lark"),
    }
    there: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if len(there) > 1:
        raise InvalidRequest(f"{' and '.join(there)} were given; a text can be kept to one structure only")
    return pb.Structure(**there) if there else None


def _set_prompt(request: pb.GenerateRequest, prompt: Prompt) -> None:
    given = checked_prompt(prompt)
    if isinstance(given, str):
        request.text = given
    elif isinstance(given, Conversation):
        for index, message in enumerate(given.turns):
            request.chat.messages.add(
                role=message.role,
                content=message.content,
                name=message.name,
                tool_calls=encode_calls(message.tool_calls, f"messages[{index}].tool_calls"),
                tool_call_id=message.tool_call_id,
                reasoning=message.reasoning,
            )
    else:
        request.token_ids.ids.extend(given)
        request.token_ids.SetInParent()


def _set_tools(request: pb.GenerateRequest, options: GenerateOptions) -> None:
    """Sets what only conversations have; InvalidRequest if the prompt is none."""
    given = pb.ChatPrompt(
        tools=encode_tools(options.get("tools", ())),
        single_call=options.get("single_call", False),
        template_variables=encode_variables(options.get("template_variables")),
        reasoning_effort=options.get("reasoning_effort") or "",
        continue_final_message=options.get("continue_final_message", False),
        add_generation_prompt=options.get("add_generation_prompt"),
    )
    given.MergeFrom(encode_choice(options.get("tool_choice"), options.get("required_tool")))
    if not given.ByteSize():
        return
    if not request.HasField("chat"):
        given_here = {name: value for name, value in options.items() if name in _OF_CONVERSATIONS}
        name, value = next(
            ((name, value) for name, value in given_here.items() if value), next(iter(given_here.items()))
        )
        raise refusal(name, value, "one with a conversation as the prompt only")
    request.chat.MergeFrom(given)
