"""Translates what both APIs have in common to drafts of generations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scheduler_svc.api.choices.plan import MAX_CHOICES, ChoicePlan, require_one_way_on
from scheduler_svc.api.draft import Draft, Prompt, SamplingDraft, SessionDraft, StopDraft, TargetsDraft
from scheduler_svc.api.openai.question import NamedDraft, StreamPlan
from scheduler_svc.api.openai.structure import structure_of
from scheduler_svc.api.openai.wire.field_names import FieldNames
from scheduler_svc.api.openai.wire.schemas import GenerationFields
from scheduler_svc.api.openai.wire.service_tier import request_class_of
from scheduler_svc.core.state.sequence import FinishReason
from scheduler_svc.errors import Amount, InvalidRequest

FINISH_REASONS = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.ABORTED: "abort"}
_MANY_DIGITS = 12
# vLLM's word for "all of them", which is 0 here.
_ALL_TOKENS = -1


@dataclass(frozen=True, slots=True)
class Logprobs:
    """How many alternatives of each token are told, and the fields that say so.

    Attributes:
        count: Of each generated token.
        field: Says so.
        prompt_count: Of each token of the prompt; None: nothing is told of that.
        prompt_field: Says so.
    """

    count: int
    field: str
    prompt_count: int | None = None
    prompt_field: str = "prompt_logprobs"


def drafts_of(
    body: GenerationFields,
    prompts: Sequence[tuple[str, Prompt]],
    default_max_tokens: int,
    logprobs: Logprobs,
    choices: ChoicePlan,
) -> list[NamedDraft]:
    """Returns a draft for each prompt.

    Args:
        body: The request.
        prompts: Each with the name of its field.
        default_max_tokens: For a request that does not say.
        logprobs: How many alternatives of each token are asked for.
        choices: What becomes of each prompt.
    """
    num_per_prompt = max(choices.num_choices, choices.num_generations)
    if len(prompts) * num_per_prompt > MAX_CHOICES:
        given = Amount(num_per_prompt, f"choices for each of {len(prompts)} prompts")
        raise InvalidRequest("n", given, f"at most {MAX_CHOICES} choices in all")
    max_tokens, max_tokens_field = _max_tokens(body)
    stop = _stop(body, max_tokens, default_max_tokens)
    sampling = _sampling(body, logprobs)
    if body.prompt_logprobs is not None and body.stream:
        raise InvalidRequest("prompt_logprobs", body.prompt_logprobs, "null where the answer is streamed")
    targets = TargetsDraft(ttft_ms=body.ttft_ms, tpot_ms=body.tpot_ms)
    session = _session(body, len(prompts) * num_per_prompt)
    structure = structure_of(body)
    num_tools = len(getattr(body, "tools", None) or ())
    return [
        NamedDraft(
            Draft(
                request_class=request_class_of(body.service_tier, body.priority),
                prompt=prompt,
                sampling=sampling,
                stop=stop,
                targets=targets,
                cache_salt=body.cache_salt or "",
                session=session,
                structure=structure.draft if structure else None,
                truncate_prompt_tokens=body.truncate_prompt_tokens,
                beams=choices.beams,
                show_special_tokens=body.skip_special_tokens is False,
            ),
            FieldNames.of(
                prompt=field,
                max_tokens=max_tokens_field,
                top_logprobs=logprobs.field,
                prompt_logprobs=logprobs.prompt_field,
                structure=structure.field if structure else "",
                beam_width=choices.width_field,
                num_tools=num_tools,
            ),
        )
        for field, prompt in prompts
    ]


def stream_plan(body: GenerationFields) -> StreamPlan | None:
    """Returns what a stream tells; None for a whole answer."""
    options = body.stream_options
    if not body.stream:
        if options is not None:
            raise InvalidRequest("stream_options", options.model_dump(exclude_unset=True), "null unless stream is true")
        return None
    if options is None:
        return StreamPlan()
    return StreamPlan(bool(options.include_usage), bool(options.include_usage and options.continuous_usage_stats))


def _max_tokens(body: GenerationFields) -> tuple[int | None, str]:
    """Returns the limit, and the name that it was given by."""
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidRequest("max_tokens", old, f"the same as max_completion_tokens, which is {new}")
    return (old, "max_tokens") if new is None else (new, "max_completion_tokens")


def _stop(body: GenerationFields, max_tokens: int | None, default_max_tokens: int) -> StopDraft:
    strings = [body.stop] if isinstance(body.stop, str) else body.stop
    return StopDraft(
        max_tokens=max_tokens,
        default_max_tokens=default_max_tokens,
        min_tokens=body.min_tokens or 0,
        ignore_eos=bool(body.ignore_eos),
        stop_token_ids=body.stop_token_ids or (),
        stop_strings=strings or (),
        include_stop_string=bool(body.include_stop_str_in_output),
    )


def _sampling(body: GenerationFields, logprobs: Logprobs) -> SamplingDraft:
    return SamplingDraft(
        temperature=body.temperature,
        top_k=0 if body.top_k == _ALL_TOKENS else body.top_k,
        top_p=body.top_p,
        min_p=body.min_p,
        typical_p=body.typical_p,
        seed=body.seed,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=_logit_bias(body.logit_bias or {}),
        allowed_token_ids=_allowed_token_ids(body.allowed_token_ids),
        bad_words=body.bad_words or (),
        num_top_logprobs=logprobs.count,
        num_prompt_logprobs=logprobs.prompt_count,
    )


def _logit_bias(given: Mapping[str, float]) -> list[tuple[int, float]]:
    """JSON has texts as keys."""
    biases: dict[int, float] = {}
    for text, bias in given.items():
        if not (text.isascii() and text.isdigit() and len(text) < _MANY_DIGITS) or int(text) in biases:
            raise InvalidRequest("logit_bias", text, "token ids as keys, each once and in digits")
        biases[int(text)] = bias
    return list(biases.items())


def _allowed_token_ids(given: Sequence[int] | None) -> Sequence[int]:
    if given is not None and not given:
        raise InvalidRequest("allowed_token_ids", given, "null, or at least one token id")
    return given or ()


def _session(body: GenerationFields, num_choices: int) -> SessionDraft | None:
    """Returns the turn that the request is; None if it names no program and says nothing of one."""
    if body.session_id is None and not body.expects_tool_call and not body.last_turn:
        return None
    if body.session_id is not None:
        require_one_way_on("session_id", body.session_id, num_choices)
    return SessionDraft(
        session_id=body.session_id or "",
        expects_tool_call=body.expects_tool_call or "",
        last_turn=bool(body.last_turn),
    )
