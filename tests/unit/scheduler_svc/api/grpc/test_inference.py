"""Generate and Abort over a real gRPC server: what streams, how it ends, and that nothing is left behind."""

import asyncio
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from qllm.v1 import inference_pb2 as pb
from qllm.v1 import inference_pb2_grpc
from tokenizers import Tokenizer as LibraryTokenizer

from scheduler_svc.api.grpc.inference import InferenceServicer
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.caller import current_caller
from scheduler_svc.core.state.sequence import FinishReason, RequestClass
from scheduler_svc.errors import InvalidRequest, WorkerUnavailable
from scheduler_svc.text.threads import INLINE_CHARS, TextThreads
from scheduler_svc.text.tokenizer import Tokenizer
from tests.support.models.sample_tokenizers import CHAT_TEMPLATE, EOS_ID, byte_level_tokenizer, without_bound
from tests.support.service.api_service import Service, collect, rest, running, text_request
from tests.support.service.fakes import FakeGenerator, served_model

CONTEXT = Mock(**{"peer.return_value": "ipv4:127.0.0.1:50051", "time_remaining.return_value": None})
TOKENIZER = Tokenizer(byte_level_tokenizer().to_str().encode())


def encode(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False))


def saying(text: str, *, then: tuple[int, ...] = (EOS_ID,), tokens_per_event: int = 1) -> FakeGenerator:
    """A generator that answers with `text`."""
    script = [*encode(text), *then]
    return FakeGenerator(script=lambda _: script, tokens_per_event=tokens_per_event)


def joined(responses: list[pb.GenerateResponse]) -> str:
    return "".join(response.text for response in responses)


def all_ids(responses: list[pb.GenerateResponse]) -> list[int]:
    return [token_id for response in responses for token_id in response.token_ids]


async def until(condition: Callable[[], object], timeout_s: float = 5) -> None:
    """Waits until `condition()` is true."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  (the fake has no event for it)
            await asyncio.sleep(0.005)


async def test_stream_carries_text_ids_logprobs_and_numbers() -> None:
    text = "naïve 日本😀 café"
    async with running(saying(text)) as service:
        responses = await collect(service, pb.GenerateRequest(request_id="mine", text="hello"))
    assert joined(responses) == text
    assert all_ids(responses) == [*encode(text), EOS_ID]
    assert [response.sequence_number for response in responses] == list(range(len(responses)))
    assert {response.request_id for response in responses} == {"mine"}
    assert all(len(response.logprobs) == len(response.token_ids) for response in responses)
    assert [response.HasField("finish") for response in responses] == [False] * (len(responses) - 1) + [True]


async def test_last_message_says_why_it_ended_and_what_it_used() -> None:
    async with running(saying("abc")) as service:
        finish = (await collect(service, text_request("hello")))[-1].finish
    assert finish.reason == pb.FINISH_REASON_STOP
    assert finish.stop_string == ""
    assert finish.usage.prompt_tokens == len(encode("hello"))
    assert finish.usage.completion_tokens == len(encode("abc")) + 1
    assert (finish.usage.queue_ms, finish.usage.prefill_ms, finish.usage.decode_ms) == (1, 2, 3)
    assert finish.usage.num_preemptions == 4


@pytest.mark.parametrize("tokens_per_event", [1, 100])
async def test_token_that_ends_the_text_is_reported_but_is_not_text(tokens_per_event: int) -> None:
    end = encode("Z")[0]
    generator = saying("abc", then=(end,), tokens_per_event=tokens_per_event)
    async with running(generator) as service:
        responses = await collect(service, text_request("hello", stop_token_ids=[end]))
    assert joined(responses) == "abc"
    assert all_ids(responses)[-1] == end


async def test_length_ends_the_text_with_its_last_token() -> None:
    async with running(FakeGenerator()) as service:
        responses = await collect(service, text_request("hello", max_tokens=3))
    expected = [encode("hello")[index % len(encode("hello"))] for index in range(3)]
    assert responses[-1].finish.reason == pb.FINISH_REASON_LENGTH
    assert all_ids(responses) == expected
    assert joined(responses) == TOKENIZER.decode(expected)


async def test_character_cut_by_the_end_is_shown_as_a_replacement() -> None:
    cut = encode("𝄞")[:-1]
    generator = FakeGenerator(script=lambda _: cut)
    async with running(generator) as service:
        responses = await collect(service, text_request("hello"))
    assert [response.text for response in responses] == [""] * (len(cut) - 1) + ["\ufffd"]


@pytest.mark.parametrize("tokens_per_event", [1, 3, 100])
async def test_stop_string_ends_the_work_and_only_what_was_consumed_counts(tokens_per_event: int) -> None:
    generator = saying("the quick brown STOP and more text" * 3, tokens_per_event=tokens_per_event)
    async with running(generator) as service:
        responses = await collect(
            service,
            pb.GenerateRequest(request_id="stops", text="hello", stop=pb.StopConditions(stop_strings=["TOP", "never"])),
        )
        assert generator.live == {}
    finish = responses[-1].finish
    assert joined(responses) == "the quick brown S"
    assert (finish.reason, finish.stop_string) == (pb.FINISH_REASON_STOP, "TOP")
    ids = all_ids(responses)
    assert "TOP" in TOKENIZER.decode(ids)
    assert "TOP" not in TOKENIZER.decode(ids[:-1])
    assert finish.usage.completion_tokens == len(ids)
    assert generator.closed_early == (["stops"] if tokens_per_event < 100 else [])
    assert set(generator.closing_reasons) <= {FinishReason.STOP}


async def test_start_of_a_stop_string_is_shown_when_the_text_ends_with_it() -> None:
    async with running(saying("wait, ST")) as service:
        responses = await collect(service, text_request("hello", stop_strings=["STOP"]))
    assert joined(responses) == "wait, ST"
    assert responses[-1].finish.stop_string == ""


async def test_chat_is_rendered_with_the_models_template() -> None:
    generator = FakeGenerator()
    chat = pb.ChatPrompt(messages=[{"role": "user", "content": "hi </s>"}])
    async with running(generator) as service:
        await collect(service, pb.GenerateRequest(chat=chat, stop=pb.StopConditions(max_tokens=1)))
    assert CHAT_TEMPLATE
    expected = encode("<s>[user] hi </s>\n[assistant] ")
    assert list(generator.submitted[0].prompt_token_ids) == expected


async def test_defaults_and_choices_reach_the_generator() -> None:
    generator = FakeGenerator()
    full = pb.GenerateRequest(
        request_class=pb.REQUEST_CLASS_BEST_EFFORT,
        token_ids=pb.TokenIds(ids=[5, 6]),
        sampling=pb.SamplingParams(
            temperature=0.5,
            top_k=3,
            top_p=0.25,
            min_p=0.125,
            seed=-9,
            repetition_penalty=1.5,
            presence_penalty=0.25,
            frequency_penalty=-0.5,
            logit_bias={7: 2.0},
            allowed_token_ids=[9, 8, 7],
            bad_words=["the"],
        ),
        stop=pb.StopConditions(max_tokens=4, min_tokens=2, ignore_eos=True, stop_token_ids=[9, 9, 8]),
    )
    async with running(generator) as service:
        await collect(service, text_request("hello"))
        await collect(service, full)
    default, chosen = generator.submitted
    assert default.request_class is RequestClass.LATENCY_SENSITIVE
    assert default.request_id
    assert (default.stop.max_tokens, default.stop.min_tokens) == (256, 0)
    assert default.stop.stop_token_ids == (EOS_ID,)
    assert default.sampling.temperature == 1
    assert chosen.request_class is RequestClass.BEST_EFFORT
    assert chosen.stop.stop_token_ids == (9, 8)
    assert (chosen.sampling.temperature, chosen.sampling.top_k, chosen.sampling.seed) == (0.5, 3, -9)
    assert (chosen.sampling.top_p, chosen.sampling.min_p) == (0.25, 0.125)
    penalties = ("repetition_penalty", "presence_penalty", "frequency_penalty")
    assert [getattr(chosen.sampling, name) for name in penalties] == [1.5, 0.25, -0.5]
    assert (chosen.sampling.logit_bias, chosen.sampling.allowed_token_ids) == (((7, 2.0),), (7, 8, 9))
    assert tuple(encode("the")) in chosen.sampling.bad_words


@pytest.mark.parametrize(
    "structure",
    [
        pb.Structure(json_schema='{"type": "integer"}'),
        pb.Structure(json_object=True),
        pb.Structure(regex="[ab]+"),
        pb.Structure(choices=pb.Choices(texts=["yes", "no"])),
        pb.Structure(lark='start: "a"'),
    ],
    ids=lambda structure: structure.WhichOneof("form"),
)
async def test_a_structure_reaches_the_generator_as_a_grammar(structure: pb.Structure) -> None:
    generator = FakeGenerator()
    request = text_request("hello")
    request.structure.CopyFrom(structure)
    async with running(generator) as service:
        await collect(service, request)
        await collect(service, text_request("hello"))
    kept, free = generator.submitted
    assert kept.sampling.grammar
    assert not free.sampling.grammar


async def test_alternatives_of_each_token_come_if_asked_for() -> None:
    async with running(FakeGenerator()) as service:
        request = text_request("hello", max_tokens=3)
        request.num_top_logprobs = 2
        responses = await collect(service, request)
        plain = await collect(service, text_request("hello", max_tokens=3))
    tops = [top for response in responses for top in response.top_logprobs]
    token_ids = [token_id for response in responses for token_id in response.token_ids]
    assert [top.tokens[0].token_id for top in tops] == token_ids
    assert [len(top.tokens) for top in tops] == [2] * len(token_ids)
    assert not any(response.top_logprobs for response in plain)


async def test_abort_from_another_connection_ends_the_stream() -> None:
    generator = FakeGenerator(hold_after=2)
    async with running(generator) as service:
        call = service.inference.Generate(pb.GenerateRequest(request_id="long", text="hello"))
        await call.read()
        async with grpc.aio.insecure_channel(service.server.address) as other:
            stub = inference_pb2_grpc.InferenceServiceStub(other)
            assert (await stub.Abort(pb.AbortRequest(request_id="long"))).aborted
            *_, last = await rest(call)
            assert last.finish.reason == pb.FINISH_REASON_ABORTED
            assert last.finish.usage.completion_tokens == 2
            assert not (await stub.Abort(pb.AbortRequest(request_id="long"))).aborted


async def test_client_that_cancels_aborts_its_request() -> None:
    generator = FakeGenerator(hold_after=1)
    async with running(generator) as service:
        call = service.inference.Generate(pb.GenerateRequest(request_id="gone", text="hello"))
        await call.read()
        assert list(generator.live) == ["gone"]
        call.cancel()
        await until(lambda: not generator.live)
        assert generator.closed_early == ["gone"]


async def test_client_that_disconnects_aborts_its_requests() -> None:
    generator = FakeGenerator(hold_after=1)
    async with running(generator) as service:
        async with grpc.aio.insecure_channel(service.server.address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            calls = [stub.Generate(text_request("hello")) for _ in range(5)]
            await asyncio.gather(*(call.read() for call in calls))
            assert len(generator.live) == 5
        await until(lambda: not generator.live)


async def test_deadline_aborts_the_request() -> None:
    generator = FakeGenerator(hold_after=1)
    async with running(generator) as service:
        call = service.inference.Generate(text_request("hello"), timeout=0.2)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            [response async for response in call]
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: not generator.live)


FROZEN_CLIENT = """
import sys
import grpc
from qllm.v1 import inference_pb2 as pb, inference_pb2_grpc
channel = grpc.insecure_channel(sys.argv[1])
grpc.channel_ready_future(channel).result()
stream = inference_pb2_grpc.InferenceServiceStub(channel).Generate(pb.GenerateRequest(text="hello"), timeout=2)
print(next(stream).sequence_number, flush=True)
next(stream)
"""


async def test_deadline_is_kept_even_if_the_client_is_frozen() -> None:
    generator = FakeGenerator(hold_after=1)
    async with running(generator) as service:
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FROZEN_CLIENT, service.server.address, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert client.stdout is not None
            await client.stdout.readline()
            client.send_signal(signal.SIGSTOP)
            assert len(generator.live) == 1
            await until(lambda: not generator.live)
        finally:
            client.kill()
            await client.communicate()


async def test_reader_that_never_reads_is_aborted_when_it_leaves() -> None:
    generator = FakeGenerator(
        script=lambda _: [65] * 4_000_000, tokens_per_event=10_000, model=served_model(tokenizer_json=b"")
    )
    async with running(generator) as service:
        prompt = pb.TokenIds(ids=[5])
        call = service.inference.Generate(pb.GenerateRequest(request_id="slow", token_ids=prompt))
        await until(lambda: generator.live)
        num_out = -1
        async with asyncio.timeout(300):  # until the connection's window is full and the server stands in a write
            while generator.live["slow"].num_out != num_out:
                num_out = generator.live["slow"].num_out
                await asyncio.sleep(0.3)
        call.cancel()
        await until(lambda: not generator.live)
        assert generator.closed_early == ["slow"]


async def test_200_streams_cancelled_at_random_moments_leave_nothing(caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(0)
    generator = FakeGenerator(script=lambda _: [65] * 100_000)
    async with running(generator) as service:

        async def one() -> None:
            call = service.inference.Generate(text_request("hello " * rng.randrange(1, 90)))
            await asyncio.sleep(rng.random() * 0.5)
            call.cancel()

        await asyncio.gather(*(one() for _ in range(200)))
        await until(lambda: not generator.live)
        assert caplog.records == []
        generator.script = lambda _: [65, EOS_ID]
        assert (await collect(service, text_request("hello")))[-1].HasField("finish")


async def test_special_token_as_stop_string_ends_the_text() -> None:
    model = served_model(eos_token_ids=())
    generator = FakeGenerator(model, script=lambda _: [*encode("hello"), EOS_ID, *encode("more")])
    async with running(generator) as service:
        responses = await collect(service, text_request("hello", stop_strings=["</s>"]))
    assert joined(responses) == "hello"
    finish = responses[-1].finish
    assert (finish.reason, finish.stop_string) == (pb.FINISH_REASON_STOP, "</s>")
    assert all_ids(responses) == [*encode("hello"), EOS_ID]


async def test_a_text_that_certainly_does_not_fit_is_refused_without_a_thread() -> None:
    class NoThreads(TextThreads):
        async def run(self, *_: Any) -> Any:
            raise AssertionError("a thread was asked")

    servicer = InferenceServicer(FakeGenerator(), TextGenerator(FakeGenerator(), NoThreads()))
    with pytest.raises(InvalidRequest, match="1900000 characters, allowed is at most 511 tokens"):
        await anext(servicer.Generate(text_request("x y " * 475_000), CONTEXT))


@pytest.mark.parametrize(
    ("peer", "host"),
    [("ipv4:10.0.0.1:50051", "ipv4:10.0.0.1"), ("ipv6:%5B::1%5D:50051", "ipv6:%5B::1%5D"), ("unix:", "unix:")],
)
async def test_all_connections_of_a_host_are_one_client(peer: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_by: list[str] = []

    async def run(*_: Any) -> Any:
        asked_by.append(current_caller())
        raise WorkerUnavailable("enough")

    monkeypatch.setattr(TextThreads, "run", run)
    context = Mock(**{"peer.return_value": peer, "time_remaining.return_value": None})
    servicer = InferenceServicer(FakeGenerator(), TextGenerator(FakeGenerator()))
    with pytest.raises(WorkerUnavailable):
        await anext(servicer.Generate(text_request("hello"), context))
    assert asked_by == [host]


async def test_the_client_is_known_to_what_is_done_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_by: list[str] = []
    run = TextThreads.run

    async def recorded(*args: Any) -> Any:
        asked_by.append(current_caller())
        return await run(*args)

    monkeypatch.setattr(TextThreads, "run", recorded)
    async with running(FakeGenerator()) as service:
        await collect(service, text_request("hello", max_tokens=1))
    assert asked_by == ["ipv4:127.0.0.1"]


async def test_a_conversation_of_many_short_turns_is_worked_on_as_a_long_text_is() -> None:
    asked: list[int] = []

    class Recorded(TextThreads):
        @contextmanager
        def room(self, request_class: Any, num_chars: int) -> Iterator[None]:
            asked.append(num_chars)
            with super().room(request_class, num_chars):
                yield

    servicer = InferenceServicer(FakeGenerator(), TextGenerator(FakeGenerator(), Recorded()))
    messages = [{"role": role, "content": "x"} for role in ("user", "assistant") * 50]
    request = pb.GenerateRequest(chat=pb.ChatPrompt(messages=messages))
    with pytest.raises(InvalidRequest, match="tokens"):
        await anext(servicer.Generate(request, CONTEXT))
    assert asked[0] > INLINE_CHARS


@pytest.mark.parametrize("kind", ["text", "chat", "template"])
async def test_a_token_that_the_model_has_no_row_for_is_refused_by_name(kind: str) -> None:
    tokenizer = LibraryTokenizer.from_str(byte_level_tokenizer().to_str())
    vocab_size = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens(["<extra>"])
    changes: dict[str, Any] = {"tokenizer_json": tokenizer.to_str().encode(), "vocab_size": vocab_size}
    request = text_request("hello <extra>")
    if kind == "chat":
        request = pb.GenerateRequest(chat=pb.ChatPrompt(messages=[{"role": "user", "content": "a <extra>"}]))
    if kind == "template":
        changes["chat_template"] = CHAT_TEMPLATE + "<extra>"
        request = pb.GenerateRequest(chat=pb.ChatPrompt(messages=[{"role": "user", "content": "a"}]))
    generator = FakeGenerator(served_model(**changes))
    async with running(generator) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await collect(service, request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    expected = f"got the token '<extra>' with id {vocab_size}, allowed is text of token ids in [0, {vocab_size - 1}]"
    assert expected in (caught.value.details() or "")
    assert generator.submitted == []


async def test_long_prompt_does_not_hold_up_other_calls() -> None:
    model = served_model(tokenizer_json=without_bound(byte_level_tokenizer()))
    async with running(FakeGenerator(model)) as service:
        long = asyncio.create_task(status_of(service, text_request("word " * 400_000)))
        await asyncio.sleep(0.05)
        for _ in range(5):
            assert (await collect(service, text_request("hello", max_tokens=2)))[-1].HasField("finish")
        assert not long.done()
        assert await long is grpc.StatusCode.INVALID_ARGUMENT  # in the end: too many tokens


async def status_of(service: Service, request: pb.GenerateRequest) -> grpc.StatusCode:
    try:
        await collect(service, request)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_request_is_not_sent_to_another_model_than_it_was_tokenized_for() -> None:
    generator = FakeGenerator()

    class ChangingModel(TextThreads):
        """Lets the model change while a text is tokenized."""

        async def run(self, *args: Any) -> Any:
            generator.model = served_model(name="another")
            return await super().run(*args)

    servicer = InferenceServicer(generator, TextGenerator(generator, ChangingModel()))
    with pytest.raises(WorkerUnavailable, match="model was changed"):
        await anext(servicer.Generate(text_request("hello"), CONTEXT))
    assert generator.submitted == []


async def test_new_models_tokenizer_is_used() -> None:
    generator = FakeGenerator()
    other = byte_level_tokenizer().to_str().replace('"add_prefix_space":false', '"add_prefix_space":true')
    async with running(generator) as service:
        await collect(service, text_request("hello", max_tokens=1))
        generator.model = served_model(tokenizer_json=other.encode(), name="other")
        await collect(service, text_request("hello", max_tokens=1))
    first, second = generator.submitted
    assert list(first.prompt_token_ids) == encode("hello")
    assert list(second.prompt_token_ids) == encode(" hello")
