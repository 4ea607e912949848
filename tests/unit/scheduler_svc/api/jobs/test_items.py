"""Items of jobs: their answers are those of the same requests sent alone, whether they run once or are gone on with."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.draft import Draft, SamplingDraft, TextPrompt
from scheduler_svc.api.grpc.items import generate_items
from scheduler_svc.api.jobs.errors import KindNotServed
from scheduler_svc.api.jobs.items import ItemAnswers
from scheduler_svc.api.openai.batches.items import json_items
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.caller import current_tenant
from scheduler_svc.core.state.sequence import FinishReason, RequestClass
from scheduler_svc.errors import InvalidRequest, QuotaExceeded, ServiceError, WorkerUnavailable
from scheduler_svc.generation import GenerationRequest
from scheduler_svc.jobs.job import Claim, ItemKind, ItemOutcome, ItemStatus, Progress
from scheduler_svc.security.grant import Grant
from scheduler_svc.text.tokenizer import Tokenizer
from tests.support.models.sample_tokenizers import EOS_ID, byte_level_tokenizer
from tests.support.security.api_keys import entry, gate_of
from tests.support.service.api_service import collect, running
from tests.support.service.fakes import FakeGenerator, served_model
from tests.support.service.openai_service import CHAT, COMPLETIONS, USER_SAYS_HI, http_app

TOKENIZER = Tokenizer(byte_level_tokenizer().to_str().encode())
ANSWER = "naïve 日本😀 café, and so on"
SCRIPT = [*TOKENIZER.encode(ANSWER, add_special_tokens=False), EOS_ID]

MODEL = served_model().identity


def saying(script: Sequence[int] = SCRIPT, **options: Any) -> FakeGenerator:
    return FakeGenerator(script=lambda _: [*script], **options)


def claim(kind: ItemKind, body: bytes, *, attempt: int = 1, progress: Progress | None = None) -> Claim:
    return Claim(
        job_id="batch_1",
        position=3,
        attempt=attempt,
        tenant="somebody",
        kind=kind,
        custom_id="mine",
        body=body,
        progress=progress or Progress(),
        lease_ends_at_s=30,
        expires_at_s=86400,
    )


def generate_claim(request: pb.GenerateRequest, **options: Any) -> Claim:
    return claim(ItemKind.GENERATE, request.SerializeToString(), **options)


def json_claim(path: str, **body: object) -> Claim:
    return claim(ItemKind(path), json.dumps(body).encode())


class Run:
    """Runs items, and keeps what was told of their progress."""

    def __init__(self, generator: FakeGenerator, grant_of: Callable[[str], Grant] = Grant) -> None:
        self.texts = TextGenerator(generator)
        by_kind = {ItemKind.GENERATE: generate_items(self.texts), **json_items(self.texts)}
        self._worker = ItemAnswers(by_kind, grant_of)
        self.progress: list[Progress] = []

    async def __call__(self, claim: Claim) -> ItemOutcome:
        self.progress = []
        return await self._worker.run(claim, self.progress.append)

    async def answer(self, claim: Claim) -> pb.GenerateResponse:
        outcome = await self(claim)
        assert outcome.status is ItemStatus.SUCCEEDED, outcome
        return pb.GenerateResponse.FromString(outcome.body)

    async def json(self, claim: Claim) -> dict[str, Any]:
        outcome = await self(claim)
        assert outcome.status is ItemStatus.SUCCEEDED, outcome
        answer: dict[str, Any] = json.loads(outcome.body)
        return answer


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    run = Run(saying())
    yield run
    run.texts.close()


def split(num_tokens: int) -> Progress:
    return Progress(tuple(SCRIPT[:num_tokens]), (-0.5,) * num_tokens, MODEL)


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in ("id", "created", "service_tier")}


async def test_an_item_has_the_answer_of_generate(run: Run) -> None:
    request = pb.GenerateRequest(text="hello")
    async with running(saying()) as service:
        alone = await collect(service, request)
    answer = await run.answer(generate_claim(request))
    assert answer.text == "".join(one.text for one in alone) == ANSWER
    assert [*answer.token_ids] == [token_id for one in alone for token_id in one.token_ids]
    assert [*answer.logprobs] == [logprob for one in alone for logprob in one.logprobs]
    assert answer.finish == alone[-1].finish


@pytest.mark.parametrize("num_tokens", range(len(SCRIPT)))
async def test_an_item_that_is_gone_on_with_has_the_whole_answer(run: Run, num_tokens: int) -> None:
    request = pb.GenerateRequest(text="hello")
    whole = await run.answer(generate_claim(request))
    resumed = await run.answer(generate_claim(request, attempt=2, progress=split(num_tokens)))
    assert resumed == whole


@pytest.mark.parametrize("num_tokens", range(1, len(SCRIPT)))
async def test_a_stop_string_across_the_seam_ends_the_text(run: Run, num_tokens: int) -> None:
    request = pb.GenerateRequest(text="hello", stop=pb.StopConditions(stop_strings=["本😀 c"]))
    whole = await run.answer(generate_claim(request))
    assert (whole.text, whole.finish.stop_string) == ("naïve 日", "本😀 c")
    if num_tokens < len(whole.token_ids):
        assert await run.answer(generate_claim(request, progress=split(num_tokens))) == whole


async def test_a_stop_string_in_what_was_there_ends_the_item_without_the_worker() -> None:
    generator = saying()
    run = Run(generator)
    request = pb.GenerateRequest(text="hello", stop=pb.StopConditions(stop_strings=["ï"]))
    answer = await run.answer(generate_claim(request, progress=split(len(SCRIPT) - 1)))
    assert (answer.text, answer.finish.reason) == ("na", pb.FINISH_REASON_STOP)
    assert generator.live == {}


async def test_the_engine_is_told_the_tokens_that_are_there(run: Run) -> None:
    generator = saying()
    run = Run(generator)
    await run.answer(generate_claim(pb.GenerateRequest(text="hello"), progress=split(4)))
    assert generator.submitted[0].output_token_ids == tuple(SCRIPT[:4])


async def test_an_item_begins_anew_on_another_model(run: Run) -> None:
    generator = saying()
    run = Run(generator)
    await run.answer(generate_claim(pb.GenerateRequest(text="hello"), progress=replace(split(4), model="another")))
    assert generator.submitted[0].output_token_ids == ()
    assert run.progress[0] == Progress(model=MODEL)
    assert run.progress[-1] == split(len(SCRIPT) - 1)


@pytest.mark.parametrize("change", [{"name": "b"}, {"dtype": "bfloat16"}, {"quantization": "int8"}, {"vocab_size": 9}])
def test_models_that_choose_other_tokens_are_other_models(change: dict[str, Any]) -> None:
    model = served_model()
    assert replace(model, **change).identity != model.identity
    assert replace(model, device="elsewhere").identity == model.identity


@pytest.mark.parametrize(
    "progress",
    [
        Progress((1, 2), (-0.5,)),
        Progress((1 << 20,), (-0.5,)),
        Progress((-1,), (-0.5,)),
        Progress((1,) * 200, (-0.5,) * 200),
    ],
    ids=["without logprobs", "unknown token", "negative token", "too many"],
)
async def test_tokens_that_can_not_be_the_items_are_left_aside(progress: Progress) -> None:
    generator = saying()
    request = pb.GenerateRequest(text="hello", stop=pb.StopConditions(max_tokens=100))
    answer = await Run(generator).answer(generate_claim(request, progress=progress))
    assert answer.text == ANSWER
    assert generator.submitted[0].output_token_ids == ()


async def test_progress_is_told_when_queued_and_after_each_delta_but_the_last(run: Run) -> None:
    await run.answer(generate_claim(pb.GenerateRequest(text="hello")))
    assert run.progress == [split(num_tokens) for num_tokens in range(len(SCRIPT))]


async def test_progress_of_an_item_that_is_gone_on_with_never_shrinks(run: Run) -> None:
    await run.answer(generate_claim(pb.GenerateRequest(text="hello"), progress=split(5)))
    assert run.progress == [split(5), *(split(num_tokens) for num_tokens in range(5, len(SCRIPT)))]


BODIES = {
    "generate": generate_claim(
        pb.GenerateRequest(
            text="hello",
            request_id="theirs",
            request_class=pb.REQUEST_CLASS_LATENCY_SENSITIVE,
            targets=pb.LatencyTargets(ttft_ms=10, tpot_ms=5),
        )
    ),
    "an unknown class": generate_claim(pb.GenerateRequest(text="hello", request_class=99)),
    "completion": json_claim(COMPLETIONS, prompt="hello", service_tier="priority", ttft_ms=10),
    "chat": json_claim(CHAT, messages=USER_SAYS_HI, service_tier="default", tpot_ms=5),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_every_item_is_best_effort_work_whatever_it_asks_for(body: Claim) -> None:
    generator = saying()
    await Run(generator)(body)
    (request,) = generator.submitted
    assert request.request_class is RequestClass.BEST_EFFORT
    assert (request.targets.ttft_s, request.targets.tpot_s, request.deadline_s) == (None, None, None)
    assert "theirs" not in request.request_id


async def test_two_attempts_draw_alike_and_are_told_apart(run: Run) -> None:
    generator = saying()
    run = Run(generator)
    item = generate_claim(pb.GenerateRequest(text="hello"))
    await run(item)
    await run(replace(item, attempt=2))
    await run(replace(item, position=4))
    first, second, other = generator.submitted
    assert first.sampling.seed == second.sampling.seed != other.sampling.seed
    assert first.request_id != second.request_id


async def test_a_seed_that_is_given_is_used() -> None:
    generator = saying()
    await Run(generator)(generate_claim(pb.GenerateRequest(text="hello", sampling=pb.SamplingParams(seed=7))))
    assert generator.submitted[0].sampling.seed == 7


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"prompt": "hello", "max_tokens": 100, "logprobs": 0, "return_token_ids": True}),
        (CHAT, {"messages": USER_SAYS_HI, "logprobs": True}),
    ],
)
async def test_json_items_have_the_answer_of_the_same_request_alone_from_wherever_they_go_on(
    run: Run, path: str, body: dict[str, object]
) -> None:
    async with http_app(saying()) as service:
        alone = await service.answer(path, **body)
    item = json_claim(path, **body)
    for num_tokens in (0, 1, 6, len(SCRIPT) - 1):
        answer = await run.json(replace(item, progress=split(num_tokens)))
        assert comparable(answer) == comparable(alone)
        assert answer["service_tier"] == "batch"
    assert answer["id"].endswith("-batch_1-3")


async def test_an_item_with_several_choices_begins_anew_each_time(run: Run) -> None:
    item = json_claim(COMPLETIONS, prompt=["a", "b"], n=2, max_tokens=100)
    answer = await run.json(replace(item, progress=split(4)))
    assert [choice["text"] for choice in answer["choices"]] == [ANSWER] * 4
    assert run.progress == [Progress()]


REFUSED = {
    "temperature": (json_claim(COMPLETIONS, prompt="a", temperature=-1), "temperature: got -1.0"),
    "unknown field": (json_claim(CHAT, messages=USER_SAYS_HI, nonsense=1), "nonsense: there is no such field here"),
    "missing field": (json_claim(CHAT), "messages: it is missing, and required"),
    "stream": (json_claim(COMPLETIONS, prompt="a", stream=True), "stream: got true, allowed is false"),
    "no JSON": (claim(ItemKind.COMPLETION, b"{"), "body: got text that cannot be read"),
    "no message": (claim(ItemKind.GENERATE, b"\xff"), "request: got 1 byte, allowed is a message"),
    "no prompt": (generate_claim(pb.GenerateRequest()), "prompt: got nothing"),
}


@pytest.mark.parametrize(("item", "message"), REFUSED.values(), ids=REFUSED)
async def test_what_is_wrong_with_an_item_is_said_as_if_it_came_alone(run: Run, item: Claim, message: str) -> None:
    with pytest.raises(ServiceError) as refusal:
        await run(item)
    assert str(refusal.value).startswith(message)
    assert refusal.value.status.name == "INVALID_ARGUMENT"


async def test_another_model_is_not_found(run: Run) -> None:
    with pytest.raises(ServiceError) as refusal:
        await run(json_claim(COMPLETIONS, prompt="a", model="another"))
    assert refusal.value.status.name == "NOT_FOUND"


async def test_an_item_without_a_worker_may_be_tried_again() -> None:
    generator = saying(fail_with=WorkerUnavailable("it is gone"), fail_after=2)
    run = Run(generator)
    with pytest.raises(WorkerUnavailable):
        await run(generate_claim(pb.GenerateRequest(text="hello")))
    assert run.progress[-1] == split(2)
    generator.model = None
    with pytest.raises(WorkerUnavailable):
        await run(json_claim(CHAT, messages=USER_SAYS_HI))


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_an_item_that_somebody_aborts_is_cancelled(body: Claim) -> None:
    generator = saying(hold_after=2)

    def abort(progress: Progress) -> None:
        if len(progress.token_ids) == 2:
            generator.abort(generator.submitted[0].request_id)

    worker = Run(generator)
    answers = ItemAnswers({ItemKind.GENERATE: generate_items(worker.texts), **json_items(worker.texts)})
    outcome = await answers.run(body, abort)
    assert (outcome.status, outcome.error_code) == (ItemStatus.CANCELLED, "CANCELLED")


async def test_a_kind_that_is_not_served_is_refused_with_what_it_needs(run: Run) -> None:
    only_grpc = ItemAnswers({ItemKind.GENERATE: generate_items(run.texts)})
    with pytest.raises(KindNotServed, match=r"qllm\[http\]"):
        await only_grpc.run(json_claim(CHAT, messages=USER_SAYS_HI), lambda _: None)


async def test_items_take_their_tenants_tokens_and_give_back_what_they_did_not_use(tmp_path: Path) -> None:
    now_s = asyncio.get_running_loop().time
    gate = gate_of(tmp_path / "keys", entry("somebody", "key", tokens_per_minute=200, requests_per_minute=1))
    account = gate.grant_of("Bearer key").account
    run = Run(saying(), gate.items_grant)
    claim = generate_claim(pb.GenerateRequest(text="hello", stop=pb.StopConditions(max_tokens=60)))
    used = 0
    for _ in range(2):  # had the first kept what it might have used, there would not be enough for the second
        usage = (await run.answer(claim)).finish.usage
        used += usage.prompt_tokens + usage.completion_tokens
    account.enter(200 - used, now_s())
    with pytest.raises(QuotaExceeded):
        await run(claim)
    run.texts.close()


async def test_items_are_worked_on_for_their_tenant() -> None:
    tenants = []

    def script(request: GenerationRequest) -> list[int]:
        tenants.append(current_tenant())
        return SCRIPT

    await Run(FakeGenerator(script=script))(generate_claim(pb.GenerateRequest(text="hello")))
    assert tenants == ["somebody"]


async def test_an_attempt_that_is_stopped_ends_its_work() -> None:
    generator = saying(hold_after=3)
    run = Run(generator)
    attempt = asyncio.create_task(run(generate_claim(pb.GenerateRequest(text="hello"))))
    async with asyncio.timeout(5):
        while len(run.progress) < 4:  # noqa: ASYNC110  (the fake has no event for it)
            await asyncio.sleep(0.005)
    attempt.cancel()
    await asyncio.wait((attempt,))
    assert (attempt.cancelled(), generator.live, generator.closing_reasons) == (True, {}, [FinishReason.ABORTED])


async def test_values_are_judged_before_a_job_is_made_as_far_as_they_can_be(run: Run) -> None:
    draft = Draft(request_class=RequestClass.BEST_EFFORT, prompt=TextPrompt("a"), sampling=SamplingDraft(top_p=2))
    with pytest.raises(InvalidRequest, match=r"sampling\.top_p"):
        run.texts.check(draft)
