"""Turns the deltas of one generation into the messages of its stream.

Pure: knows nothing of sockets, time or the engine.
"""

from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.deltas import Delta, Finish
from scheduler_svc.api.grpc.beam_messages import hypothesis_message
from scheduler_svc.api.grpc.chats import call_message
from scheduler_svc.api.grpc.finish_reasons import finish_reason
from scheduler_svc.core.state.prompt_scores import PromptScores
from scheduler_svc.core.state.sequence import Usage


def response_message(request_id: str, sequence_number: int, delta: Delta) -> pb.GenerateResponse:
    """Returns a delta as it goes over the wire."""
    response = pb.GenerateResponse(
        request_id=request_id,
        sequence_number=sequence_number,
        text=delta.text,
        token_ids=delta.token_ids,
        logprobs=delta.logprobs,
        reasoning=delta.reasoning,
    )
    if any(delta.tops):
        for top in delta.tops:
            response.top_logprobs.add(
                tokens=[pb.TokenLogprob(token_id=one.token_id, logprob=one.logprob) for one in top]
            )
    response.tool_calls.extend(map(call_message, delta.calls))
    if delta.scores is not None:
        response.prompt_logprobs.MergeFrom(_prompt_logprobs(delta.scores))
    response.hypotheses.extend(map(hypothesis_message, delta.hypotheses))
    if delta.finish is not None:
        response.finish.CopyFrom(_finish_message(delta.finish))
    return response


def _prompt_logprobs(scores: PromptScores) -> pb.PromptLogprobs:
    columns = {name: getattr(scores, name) for name in PromptScores.__dataclass_fields__}
    return pb.PromptLogprobs(**columns)


def _finish_message(finish: Finish) -> pb.Finish:
    usage = usage_message(finish.usage)
    return pb.Finish(reason=finish_reason(finish), stop_string=finish.stop_string or "", usage=usage)


def usage_message(usage: Usage) -> pb.Usage:
    """Returns the usage as it goes over the wire, in milliseconds."""
    return pb.Usage(
        prompt_tokens=usage.num_prompt_tokens,
        completion_tokens=usage.num_output_tokens,
        queue_ms=usage.queue_s * 1e3,
        prefill_ms=usage.prefill_s * 1e3,
        decode_ms=usage.decode_s * 1e3,
        num_preemptions=usage.num_preemptions,
        cached_tokens=usage.num_cached_tokens,
    )
