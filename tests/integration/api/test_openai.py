"""The OpenAI SDK's own client against the whole service, beside gRPC."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import grpc
import openai
import pytest
from pydantic import BaseModel, Field
from qllm.v1 import inference_pb2 as pb

from tests.support.service.live_service import ROOT, LiveService, free_port, start_service
from tests.support.service.simulated_worker import slow_worker

PROMPT = "def fibonacci(n):"
CHAT = [{"role": "user", "content": "Write a function `main`."}]
# The SDK would retry what these tests want to see refused.
OPTIONS = {"api_key": "none", "max_retries": 0, "timeout": 300}
MOST_BE_REQUESTS = 2


@dataclass
class HttpService:
    """A live service with HTTP."""

    live: LiveService
    url: str

    @property
    def model(self) -> str:
        return str(self.live.model_facts.name)

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, **OPTIONS)  # type: ignore[arg-type]

    def wait_until_idle(self) -> None:
        deadline = time.monotonic() + 300
        while True:
            loads = self.live.loads()
            if loads.free_blocks == loads.total_blocks:
                return
            assert time.monotonic() < deadline, loads
            time.sleep(0.05)


@pytest.fixture
def service(live_service: LiveService, http_port: int) -> HttpService:
    return HttpService(live_service, f"http://127.0.0.1:{http_port}/v1")


@pytest.fixture
def small_service(tmp_path: Path) -> Iterator[HttpService]:
    """A service without a model that takes few requests."""
    port = free_port()
    options = ("--http-port", str(port), "--max-be-requests", str(MOST_BE_REQUESTS))
    worker = slow_worker(tmp_path)
    with start_service(ROOT / "demo" / "model", tmp_path / "log", *options, worker_options=worker) as live:
        yield HttpService(live, f"http://127.0.0.1:{port}/v1")


@pytest.fixture
def client(service: HttpService) -> Iterator[openai.OpenAI]:
    with service.client() as client:
        yield client


@pytest.fixture
async def async_client(service: HttpService) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=service.url, **OPTIONS) as client:  # type: ignore[arg-type]
        yield client


def over_grpc(service: HttpService, **request: Any) -> tuple[str, list[int], pb.Finish]:
    """Returns text, token ids and end of the same generation over gRPC."""
    message = pb.GenerateRequest(sampling=pb.SamplingParams(temperature=0), **request)
    with service.live.channel() as channel:
        responses = list(service.live.inference(channel).Generate(message, timeout=300))
    ids = [token_id for response in responses for token_id in response.token_ids]
    return "".join(response.text for response in responses), ids, responses[-1].finish


def token_ids(choice: Any) -> list[int]:
    """Returns a field that the SDK does not know but keeps."""
    return list(choice.model_extra["token_ids"])


def test_completion_has_the_tokens_of_grpc(service: HttpService, client: openai.OpenAI) -> None:
    text, ids, finish = over_grpc(service, text=PROMPT, stop=pb.StopConditions(max_tokens=24))
    extra = {"return_token_ids": True}
    answer = client.completions.create(
        model=service.model, prompt=PROMPT, max_tokens=24, temperature=0, extra_body=extra
    )
    [choice] = answer.choices
    assert (choice.text, token_ids(choice)) == (text, ids)
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (finish.usage.prompt_tokens, 24)


def test_chat_has_the_tokens_of_grpc(service: HttpService, client: openai.OpenAI) -> None:
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(**CHAT[0])])
    text, ids, _ = over_grpc(service, chat=chat, stop=pb.StopConditions(max_tokens=24))
    extra = {"return_token_ids": True}
    answer = client.chat.completions.create(
        model=service.model,
        messages=CHAT,  # type: ignore[arg-type]
        max_completion_tokens=24,
        temperature=0,
        extra_body=extra,
    )
    [choice] = answer.choices
    assert (choice.message.content, token_ids(choice)) == (text, ids)


def test_rules_of_choosing_hold_and_are_those_of_grpc(service: HttpService, client: openai.OpenAI) -> None:
    stop = pb.StopConditions(max_tokens=16, ignore_eos=True)
    _, plain, _ = over_grpc(service, text=PROMPT, stop=stop)
    banned = {str(token_id): -100.0 for token_id in plain[:3]}
    answer = client.completions.create(
        model=service.model,
        prompt=PROMPT,
        max_tokens=16,
        temperature=0,
        logit_bias=banned,  # type: ignore[arg-type]
        presence_penalty=2,
        frequency_penalty=2,
        logprobs=2,
        extra_body={"return_token_ids": True, "ignore_eos": True, "repetition_penalty": 2.0},
    )
    [choice] = answer.choices
    assert not {int(token_id) for token_id in banned} & set(token_ids(choice))
    assert choice.logprobs is not None
    assert choice.logprobs.top_logprobs is not None
    assert {len(top) for top in choice.logprobs.top_logprobs} <= {2, 3}  # with the one that was chosen
    rules: Any = {"repetition_penalty": 2.0, "presence_penalty": 2.0, "frequency_penalty": 2.0}
    sampling = pb.SamplingParams(temperature=0, logit_bias={int(k): bias for k, bias in banned.items()}, **rules)
    message = pb.GenerateRequest(text=PROMPT, stop=stop, sampling=sampling)
    with service.live.channel() as channel:
        responses = list(service.live.inference(channel).Generate(message, timeout=300))
    assert [token_id for response in responses for token_id in response.token_ids] == token_ids(choice)


class Verdict(BaseModel):
    """What a chat is asked to answer with."""

    is_code: bool
    language: Literal["python", "c"]
    lines: list[Literal[1, 2, 3]] = Field(min_length=1, max_length=3)


@pytest.mark.parametrize("service_tier", ["default", "flex"])
def test_parse_returns_what_its_model_describes(
    service: HttpService, client: openai.OpenAI, service_tier: Literal["default", "flex"]
) -> None:
    answer = client.chat.completions.parse(
        model=service.model,
        messages=CHAT,  # type: ignore[arg-type]
        response_format=Verdict,
        max_tokens=400,
        temperature=1,
        seed=5,
        service_tier=service_tier,
    )
    [choice] = answer.choices
    assert choice.finish_reason == "stop"
    assert choice.message.parsed == Verdict.model_validate_json(choice.message.content or "")


def test_a_structure_is_kept_to_in_streams_of_several_choices(service: HttpService, client: openai.OpenAI) -> None:
    chunks = client.completions.create(
        model=service.model,
        prompt=PROMPT,
        n=3,
        seed=4,
        max_tokens=40,
        stream=True,
        extra_body={"guided_regex": "[a-c]{4}-[0-9]{2}", "service_tier": "flex"},
    )
    texts = dict.fromkeys(range(3), "")
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert all(re.fullmatch("[a-c]{4}-[0-9]{2}", text) for text in texts.values()), texts
    assert len(set(texts.values())) > 1


def test_a_structure_that_takes_too_much_is_refused_and_others_are_served(
    service: HttpService, client: openai.OpenAI
) -> None:
    schema = {"type": "string", "allOf": [{"pattern": f"[a-z]{{{n}}}[^a]*$"} for n in range(2, 26)]}
    with pytest.raises(openai.BadRequestError, match="to prepare"):
        client.completions.create(model=service.model, prompt=PROMPT, extra_body={"guided_json": schema})
    assert client.completions.create(model=service.model, prompt=PROMPT, max_tokens=2).choices[0].text


def test_rules_that_leave_no_token_are_their_callers_mistake(service: HttpService, client: openai.OpenAI) -> None:
    extra = {"allowed_token_ids": [50], "bad_words": [], "min_tokens": 2, "stop_token_ids": [50]}
    with pytest.raises(openai.BadRequestError, match="leave no token"):
        client.completions.create(model=service.model, prompt=PROMPT, max_tokens=4, extra_body=extra)


def test_token_ids_are_used_as_they_are(service: HttpService, client: openai.OpenAI) -> None:
    prompt = list(range(50, 90))
    stop = pb.StopConditions(max_tokens=12, ignore_eos=True)
    _, ids, finish = over_grpc(service, token_ids=pb.TokenIds(ids=prompt), stop=stop)
    extra = {"return_token_ids": True, "ignore_eos": True, "min_tokens": 3, "top_k": -1}
    answer = client.completions.create(
        model=service.model, prompt=prompt, max_tokens=12, temperature=0, extra_body=extra
    )
    assert token_ids(answer.choices[0]) == ids
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == finish.usage.prompt_tokens == 40


def test_streams_of_both_apis_add_up_and_end_with_the_usage(service: HttpService, client: openai.OpenAI) -> None:
    usage = {"include_usage": True}
    text, _, _ = over_grpc(service, text=PROMPT, stop=pb.StopConditions(max_tokens=24))
    options: Mapping[str, Any] = {"model": service.model, "temperature": 0, "stream": True, "stream_options": usage}
    *chunks, last = client.completions.create(prompt=PROMPT, max_tokens=24, **options)
    assert "".join(chunk.choices[0].text for chunk in chunks) == text
    assert last.usage.completion_tokens == 24
    *chunks, last = client.chat.completions.create(messages=CHAT, max_tokens=9, **options)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert (last.choices, last.usage.completion_tokens) == ([], 9)


@pytest.mark.parametrize(("tier", "load"), [("flex", "best_effort"), ("priority", "latency_sensitive")])
def test_service_tier_is_the_class_and_is_echoed(
    service: HttpService, client: openai.OpenAI, tier: str, load: str
) -> None:
    before = getattr(service.live.loads(), load).num_finished
    options: Mapping[str, Any] = {"model": service.model, "messages": CHAT, "max_tokens": 4, "service_tier": tier}
    answer = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True))
    assert answer.service_tier == tier
    assert {chunk.service_tier for chunk in chunks} == {tier}
    assert getattr(service.live.loads(), load).num_finished == before + 2


def test_choices_of_several_prompts_are_those_of_each_alone(service: HttpService, client: openai.OpenAI) -> None:
    prompts = [PROMPT, "class Stack:"]
    options: Mapping[str, Any] = {"model": service.model, "max_tokens": 8, "temperature": 0}
    together = client.completions.create(prompt=prompts, n=2, **options)
    alone = [client.completions.create(prompt=prompt, **options).choices[0].text for prompt in prompts]
    assert [choice.text for choice in together.choices] == [alone[0], alone[0], alone[1], alone[1]]


def test_served_model_is_found_and_another_is_not(service: HttpService, client: openai.OpenAI) -> None:
    listed = [model.id for model in client.models.list().data]
    assert listed == [service.model]
    for name in (service.model, str(ROOT / "demo" / "model")):  # where it lies is not told, but taken
        assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-5", prompt=PROMPT)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


def test_bad_input_names_its_field(service: HttpService, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature: got 1000") as caught:
        client.completions.create(model=service.model, prompt=PROMPT, temperature=1000)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="no such field"):
        client.completions.create(model=service.model, prompt=PROMPT, extra_body={"typo": 1})


async def test_overload_of_best_effort_is_told_and_leaves_the_other_class_alone(small_service: HttpService) -> None:
    service = small_service
    async_client = openai.AsyncOpenAI(base_url=service.url, **OPTIONS)  # type: ignore[arg-type]
    options: Mapping[str, Any] = {"model": service.model, "prompt": PROMPT}
    extra = {"ignore_eos": True, "service_tier": "flex"}
    streams = [
        await async_client.completions.create(**options, max_tokens=1500, stream=True, extra_body=extra)
        for _ in range(MOST_BE_REQUESTS)
    ]
    try:
        with pytest.raises(openai.RateLimitError) as caught:
            await async_client.completions.create(**options, extra_body={"service_tier": "batch"})
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert caught.value.code == "rate_limit_exceeded"
        assert (await async_client.completions.create(**options, max_tokens=2)).choices
    finally:
        for stream in streams:
            await stream.close()
        await async_client.close()
    await asyncio.to_thread(service.wait_until_idle)


async def test_client_that_leaves_gives_its_blocks_back(service: HttpService, async_client: openai.AsyncOpenAI) -> None:
    options: Mapping[str, Any] = {"model": service.model, "prompt": PROMPT, "max_tokens": 1500}
    extra = {"ignore_eos": True}
    stream = await async_client.completions.create(**options, stream=True, extra_body=extra)
    async for _ in stream:
        break
    asking = asyncio.create_task(async_client.completions.create(**options, n=3, extra_body=extra))
    while (await asyncio.to_thread(service.live.loads)).latency_sensitive.running < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    finished = (await asyncio.to_thread(service.live.loads)).latency_sensitive.num_generated_tokens
    await stream.close()
    asking.cancel()
    await asyncio.to_thread(service.wait_until_idle)
    generated = (await asyncio.to_thread(service.live.loads)).latency_sensitive.num_generated_tokens - finished
    assert generated < 4 * 1500 / 2


def test_health_and_version_are_served(service: HttpService, client: openai.OpenAI) -> None:
    root = service.url.removesuffix("/v1")
    for path in ("health", "version"):
        assert client.get(f"{root}/{path}", cast_to=dict[str, Any])


def test_grpc_abort_ends_an_http_answer(service: HttpService, client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model=service.model, prompt=PROMPT, max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
    )
    first = next(stream)
    with grpc.insecure_channel(service.live.grpc_address) as channel:
        assert service.live.inference(channel).Abort(pb.AbortRequest(request_id=first.id), timeout=300).aborted
    *_, last = stream
    assert last.choices[0].finish_reason == "abort"
