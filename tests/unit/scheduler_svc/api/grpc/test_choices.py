"""Several choices over gRPC: in which messages they come, how each ends, and what does not go along with them."""

import asyncio
from collections import defaultdict
from collections.abc import Callable

import grpc
import pytest
from qllm.v1 import batches_pb2
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.errors import Overloaded
from scheduler_svc.generation import GenerationRequest, TokenEvent
from scheduler_svc.text.tokenizer import Tokenizer
from tests.support.jobs.memory_jobs import MemoryJobs
from tests.support.models.sample_tokenizers import byte_level_tokenizer
from tests.support.service.api_service import Service, collect, rest, running, text_request
from tests.support.service.fakes import FakeGenerator, FakeStream

TOKENIZER = Tokenizer(byte_level_tokenizer().to_str().encode())
WORDS = [TOKENIZER.encode(letter, add_special_tokens=False)[0] for letter in "abcd"]


def by_seed(request: GenerationRequest) -> list[int]:
    """As many tokens as the seed says, and one."""
    return [*WORDS[: 1 + request.sampling.seed]]


class Unequal(FakeGenerator):
    """Choices whose tokens are each as probable as their seed says."""

    def submit(self, request: GenerationRequest) -> FakeStream:
        stream = super().submit(request)
        stream.next_event = lambda: _event(stream)  # type: ignore[method-assign]
        return stream


def _event(stream: FakeStream) -> TokenEvent:
    event = FakeStream.next_event(stream)
    logprob = (-3.0, -1.0, -2.0, -0.5)[stream.request.sampling.seed]
    return TokenEvent(event.token_ids, (logprob,) * len(event.token_ids), event.finish_reason, event.usage)


def asking(num_choices: int, seed: int | None = 0, **fields: object) -> pb.GenerateRequest:
    sampling = pb.SamplingParams(seed=seed)
    return pb.GenerateRequest(text="x", num_choices=num_choices, sampling=sampling, **fields)  # type: ignore[arg-type]


def by_choice(messages: list[pb.GenerateResponse]) -> dict[int, list[pb.GenerateResponse]]:
    found = defaultdict(list)
    for message in messages:
        found[message.choice_index].append(message)
    return dict(sorted(found.items()))


async def until(is_true: Callable[[], bool]) -> None:
    while not is_true():  # noqa: ASYNC110  (the fake has no event for it)
        await asyncio.sleep(0.005)


async def refusal(service: Service, request: pb.GenerateRequest) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await collect(service, request)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return error.value.details() or ""


async def test_each_choice_comes_in_order_and_ends_for_itself() -> None:
    async with running(FakeGenerator(script=by_seed)) as service:
        messages = await collect(service, asking(4))
    assert [message.sequence_number for message in messages] == list(range(len(messages)))
    assert len({message.request_id for message in messages}) == 1
    choices = by_choice(messages)
    assert list(choices) == [0, 1, 2, 3]
    for index, parts in choices.items():
        assert "".join(part.text for part in parts) == "abcd"[: 1 + index]
        assert [part.HasField("finish") for part in parts] == [False] * index + [True]
        assert parts[-1].finish.usage.completion_tokens == 1 + index
    assert messages[-1].HasField("finish")


async def test_choices_come_beside_one_another() -> None:
    async with running(FakeGenerator()) as service:
        messages = await collect(service, asking(2))
    assert {message.choice_index for message in messages[: len(messages) // 4]} == {0, 1}


async def test_choices_are_queued_together_and_draw_by_the_documented_seeds() -> None:
    async with running(FakeGenerator()) as service:
        await collect(service, asking(3, seed=6))
        await collect(service, asking(3, seed=None))
    given, drawn = service.generator.submitted[:3], service.generator.submitted[3:]
    assert [request.sampling.seed for request in given] == [6, 6 ^ 1, 6 ^ 2]
    assert len({request.sampling.seed for request in drawn}) == 3
    assert len({request.request_id for request in given}) == 1


async def test_one_choice_is_as_it_was() -> None:
    async with running(FakeGenerator()) as service:
        plain, one = await collect(service, text_request("x")), await collect(service, asking(1, seed=None))
    for message in (*plain, *one):
        message.request_id = ""
    assert one == plain
    assert all(message.choice_index == 0 for message in plain)


async def test_abort_ends_all_choices_and_each_says_so() -> None:
    async with running(FakeGenerator(hold_after=1)) as service:
        call = service.inference.Generate(asking(3, request_id="mine"))
        first = await call.read()
        answer = await service.inference.Abort(pb.AbortRequest(request_id="mine"))
        messages = [first, *await rest(call)]  # type: ignore[list-item]
    assert answer.aborted
    ends = [message for message in messages if message.HasField("finish")]
    assert sorted(end.choice_index for end in ends) == [0, 1, 2]
    assert {end.finish.reason for end in ends} == {pb.FINISH_REASON_ABORTED}


async def test_a_client_that_leaves_ends_all_choices() -> None:
    async with running(FakeGenerator(hold_after=1)) as service:
        call = service.inference.Generate(asking(3))
        await call.read()
        assert len(service.generator.live) == 3
        call.cancel()
        await until(lambda: not service.generator.live)
    assert len(service.generator.closed_early) == 3


async def test_the_id_of_choices_is_taken_once_for_all() -> None:
    async with running(FakeGenerator(hold_after=1)) as service:
        call = service.inference.Generate(asking(2, request_id="mine"))
        await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await collect(service, asking(2, request_id="mine"))
        call.cancel()
    assert error.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_where_one_choice_is_refused_none_runs() -> None:
    class Full(FakeGenerator):
        def submit(self, request: GenerationRequest) -> FakeStream:
            if len(self.live) == 2:
                raise Overloaded("latency-sensitive", 2, 1.0)
            return super().submit(request)

    async with running(Full()) as service:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await collect(service, asking(3))
        assert service.generator.live == {}
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_of_best_of_the_most_probable_come_at_the_end_best_first() -> None:
    async with running(Unequal(script=by_seed)) as service:
        messages = await collect(service, asking(2, best_of=4))
    assert [request.sampling.seed for request in service.generator.submitted] == [0, 1, 2, 3]
    assert [(message.choice_index, message.text) for message in messages] == [(0, "abcd"), (1, "ab")]
    assert [message.sequence_number for message in messages] == [0, 1]
    assert [message.finish.usage.completion_tokens for message in messages] == [4, 2]


async def test_what_a_choice_computed_for_the_others_is_not_called_cached() -> None:
    def cached(request: GenerationRequest) -> int:
        return 5 if request.sampling.seed else 2

    async with running(FakeGenerator(cached=cached)) as service:
        messages = await collect(service, asking(3))
    assert [one.finish.usage.cached_tokens for one in messages if one.HasField("finish")] == [2, 2, 2]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (asking(0), ("num_choices", "got 0", "1 to 128")),
        (asking(129), ("num_choices", "got 129", "1 to 128")),
        (asking(3, best_of=2), ("best_of", "got 2", "at least num_choices, which is 3")),
        (asking(1, best_of=129), ("best_of", "got 129", "1 to 128")),
        (asking(2, beam_search=pb.BeamSearch(beam_width=2)), ("num_choices", "got 2", "beam_search.num_returned")),
        (asking(1, best_of=2, beam_search=pb.BeamSearch(beam_width=2)), ("best_of", "got 2", "num_returned")),
        (asking(2, session=pb.SessionTurn(session_id="s")), ("session.session_id", "more than one choice")),
        (asking(128, num_prompt_logprobs=20, token_ids=pb.TokenIds(ids=[5] * 60)), ("num_prompt_logprobs", "131072")),
    ],
)
async def test_what_makes_no_sense_is_refused_by_field(request_: pb.GenerateRequest, words: tuple[str, ...]) -> None:
    async with running(FakeGenerator()) as service:
        told = await refusal(service, request_)
        assert service.generator.submitted == []
    assert all(word in told for word in words), told


@pytest.mark.parametrize("fields", [{"num_choices": 2}, {"best_of": 2}])
async def test_an_item_of_a_job_has_one_answer(fields: dict[str, int]) -> None:
    request = pb.GenerateRequest(text="x", **fields)  # type: ignore[arg-type]
    item = batches_pb2.NewBatchItem(custom_id="a", request=request)
    header = batches_pb2.CreateBatchRequest(header=batches_pb2.BatchHeader())
    async with running(FakeGenerator(), MemoryJobs()) as service:
        with pytest.raises(grpc.aio.AioRpcError, match="send several items") as error:
            await service.batches.CreateBatch([header, batches_pb2.CreateBatchRequest(item=item)])
    assert f"items[0].request.{next(iter(fields))}" in (error.value.details() or "")
