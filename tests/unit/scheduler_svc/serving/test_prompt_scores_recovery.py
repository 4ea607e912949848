"""A prompt that is told of outlives its worker: each token is told of once, and the answer follows."""

import pytest

from scheduler_svc.core.state.sequence import FinishReason, RequestClass, SamplingParams
from scheduler_svc.generation import TokenStream
from tests.support.service.engine_bench import EngineBench

LENGTH = 400
PROMPT = tuple(index % 90 for index in range(LENGTH))
SCORED = SamplingParams(num_prompt_logprobs=0)
LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT


async def read(stream: TokenStream) -> tuple[list[float], list[int], FinishReason | None]:
    logprobs, token_ids, reason = list[float](), list[int](), None
    async for event in stream:
        assert event.scores is None or not token_ids, "a prompt is told of before its answer"
        if event.scores is not None:
            assert event.scores.first_position == len(logprobs) + 1
            assert tuple(event.scores.token_ids) == PROMPT[event.scores.first_position : event.scores.stop]
            logprobs += event.scores.logprobs
        token_ids += event.token_ids
        reason = event.finish_reason
    return logprobs, token_ids, reason


@pytest.mark.parametrize("max_tokens", [0, 3])
@pytest.mark.parametrize("request_class", [LS, BE])
@pytest.mark.parametrize("num_steps", [0, 1, 2, 4, 7, 12, 20, 30])
async def test_what_a_lost_worker_told_is_not_told_again(
    num_steps: int, request_class: RequestClass, max_tokens: int
) -> None:
    bench = EngineBench(chunk_tokens=128)
    stream = bench.submit("a", max_tokens, request_class, prompt=PROMPT, sampling=SCORED)
    other = bench.submit("b", 4)
    bench.work(num_steps)
    bench.lose()
    bench.join()
    bench.work()
    told = [-1.0 * place for place in range(1, LENGTH)]
    answer = list(range(LENGTH, LENGTH + max_tokens))
    assert await read(stream) == (told, answer, FinishReason.LENGTH)
    assert [token async for event in other for token in event.token_ids] == [4, 5, 6, 7]
    assert not bench.engine.loads().best_effort.running


async def test_a_prompt_alone_is_no_first_token_and_ends_as_a_whole_answer() -> None:
    bench = EngineBench()
    stream = bench.submit("a", 0, prompt=PROMPT, sampling=SCORED)
    bench.work()
    logprobs, token_ids, reason = await read(stream)
    assert (len(logprobs), token_ids, reason) == (LENGTH - 1, [], FinishReason.LENGTH)
    usage = stream.usage()
    assert (usage.num_prompt_tokens, usage.num_output_tokens) == (LENGTH, 0)
    page = bench.engine.metrics().decode()
    assert 'qllm:request_success_total{class="ls",finished_reason="length"} 1.0' in page
    assert 'qllm:time_to_first_token_seconds_count{class="ls"} 0.0' in page
