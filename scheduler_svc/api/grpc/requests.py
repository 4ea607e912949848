"""Turns a GenerateRequest into a generation's draft; judges only what is the wire's own: class numbers, the oneof."""

from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.draft import (
    Draft,
    Prompt,
    SamplingDraft,
    SessionDraft,
    StopDraft,
    StructureDraft,
    StructureKind,
    TargetsDraft,
    TextPrompt,
    TokenPrompt,
)
from scheduler_svc.api.grpc.beam_messages import beam_draft
from scheduler_svc.api.grpc.chats import chat_of
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import NOTHING, InvalidRequest

_CLASSES = {
    pb.REQUEST_CLASS_UNSPECIFIED: RequestClass.LATENCY_SENSITIVE,
    pb.REQUEST_CLASS_LATENCY_SENSITIVE: RequestClass.LATENCY_SENSITIVE,
    pb.REQUEST_CLASS_BEST_EFFORT: RequestClass.BEST_EFFORT,
}


def draft_of(request: pb.GenerateRequest, deadline_s: float | None = None) -> Draft:
    """Returns what the message asks for; raises InvalidRequest for an unknown class or a missing prompt.

    Args:
        request: The message.
        deadline_s: That of the call that brought it, on the clock of the event loop; None: it has none.
    """
    return Draft(
        request_id=request.request_id,
        request_class=valid_request_class(request.request_class),
        prompt=_prompt(request),
        sampling=_sampling(request),
        stop=_stop(request.stop),
        targets=_targets(request.targets),
        deadline_s=deadline_s,
        cache_salt=request.cache_salt,
        session=_session(request.session) if request.HasField("session") else None,
        structure=_structure(request.structure) if request.HasField("structure") else None,
        truncate_prompt_tokens=request.truncate_prompt_tokens if request.HasField("truncate_prompt_tokens") else None,
        beams=beam_draft(request.beam_search) if request.HasField("beam_search") else None,
    )


def likely_class(request: pb.GenerateRequest) -> RequestClass:
    """Returns the class of a request that may turn out to be invalid; the default where it names none that exists."""
    return _CLASSES.get(request.request_class, RequestClass.LATENCY_SENSITIVE)


def valid_request_class(given: int) -> RequestClass:
    """Returns the class; unspecified is latency-sensitive."""
    for number, request_class in _CLASSES.items():
        if number == given:
            return request_class
    names = ", ".join(f"{number} ({pb.RequestClass.Name(number)})" for number in _CLASSES)
    raise InvalidRequest("request_class", given, names)


def _prompt(request: pb.GenerateRequest) -> Prompt:
    kind = request.WhichOneof("prompt")
    adds_special_tokens = request.add_special_tokens if request.HasField("add_special_tokens") else kind == "text"
    if kind == "text":
        return TextPrompt(request.text, adds_special_tokens)
    if adds_special_tokens:
        raise InvalidRequest("add_special_tokens", True, "false, or nothing at all, unless the prompt is a text")
    if kind == "chat":
        return chat_of(request.chat)
    if kind == "token_ids":
        return TokenPrompt(request.token_ids.ids)
    raise InvalidRequest("prompt", NOTHING, "one of text, chat, token_ids")


def _sampling(request: pb.GenerateRequest) -> SamplingDraft:
    given = request.sampling
    return SamplingDraft(
        temperature=given.temperature if given.HasField("temperature") else None,
        top_k=given.top_k if given.HasField("top_k") else None,
        top_p=given.top_p if given.HasField("top_p") else None,
        min_p=given.min_p if given.HasField("min_p") else None,
        typical_p=given.typical_p if given.HasField("typical_p") else None,
        seed=given.seed if given.HasField("seed") else None,
        repetition_penalty=given.repetition_penalty if given.HasField("repetition_penalty") else None,
        presence_penalty=given.presence_penalty if given.HasField("presence_penalty") else None,
        frequency_penalty=given.frequency_penalty if given.HasField("frequency_penalty") else None,
        logit_bias=tuple(given.logit_bias.items()),
        allowed_token_ids=given.allowed_token_ids,
        bad_words=given.bad_words,
        num_top_logprobs=request.num_top_logprobs,
        num_prompt_logprobs=request.num_prompt_logprobs if request.HasField("num_prompt_logprobs") else None,
    )


def _structure(given: pb.Structure) -> StructureDraft:
    form = given.WhichOneof("form")
    if form is None:
        raise InvalidRequest("structure", NOTHING, f"one of {', '.join(StructureKind)}")
    kind = StructureKind(form)
    if kind is StructureKind.CHOICES:
        return StructureDraft(kind, given.choices.texts)
    if kind is StructureKind.JSON_OBJECT:
        if not given.json_object:
            raise InvalidRequest("structure.json_object", False, "true, or no structure at all")
        return StructureDraft(kind, ("",))
    return StructureDraft(kind, (getattr(given, form),))


def _stop(given: pb.StopConditions) -> StopDraft:
    return StopDraft(
        max_tokens=given.max_tokens if given.HasField("max_tokens") else None,
        min_tokens=given.min_tokens,
        ignore_eos=given.ignore_eos,
        stop_token_ids=given.stop_token_ids,
        stop_strings=given.stop_strings,
        include_stop_string=given.include_stop_string,
    )


def _targets(given: pb.LatencyTargets) -> TargetsDraft:
    return TargetsDraft(
        ttft_ms=given.ttft_ms if given.HasField("ttft_ms") else None,
        tpot_ms=given.tpot_ms if given.HasField("tpot_ms") else None,
    )


def _session(given: pb.SessionTurn) -> SessionDraft:
    return SessionDraft(
        session_id=given.session_id, expects_tool_call=given.expects_tool_call, last_turn=given.last_turn
    )
