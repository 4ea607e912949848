from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from qllm.client.bench.errors import RequestFailed, TargetFailed
from qllm.client.bench.load.http_target import HttpDialect, HttpTarget, PriorityField
from qllm.client.bench.load.target import Ask, Chunk, Ending, Turn
from qllm.client.bench.load.workload import BE, LS

from tests.unit.client.bench.fake_openai import FakeOpenAI, completion

Items = list[Chunk | Ending]


@asynccontextmanager
async def target_of(openai: FakeOpenAI, *, model: str | None = "m", **dialect: object) -> AsyncIterator[HttpTarget]:
    target = HttpTarget(openai.url, model=model, dialect=HttpDialect(**dialect))  # type: ignore[arg-type]
    yield target
    await target.close()


async def read(target: HttpTarget, ask: Ask) -> Items:
    return [item async for item in target.stream(ask)]


async def test_tokens_and_usage_come_as_they_were_sent(openai: FakeOpenAI) -> None:
    async with target_of(openai) as target:
        items = await read(target, Ask(LS, [1, 2, 3], 4))
    assert items == [Chunk(1, token_ids=(number,)) for number in range(4)] + [Ending(4, 11, None)]
    (body,) = openai.bodies
    assert (body["prompt"], body["max_tokens"], body["temperature"], body["stream"]) == ([1, 2, 3], 4, 0.0, True)
    assert (body["ignore_eos"], body["stream_options"], body["return_token_ids"]) == (
        True,
        {"include_usage": True},
        True,
    )


@pytest.mark.parametrize(
    ("field", "ls", "be"),
    [
        (PriorityField.SERVICE_TIER, {"service_tier": "default"}, {"service_tier": "flex"}),
        (PriorityField.PRIORITY, {"priority": 0}, {"priority": 1}),
        (PriorityField.NONE, {}, {}),
    ],
)
async def test_the_class_is_told_in_the_field_that_was_asked_for(
    openai: FakeOpenAI, field: PriorityField, ls: dict[str, object], be: dict[str, object]
) -> None:
    async with target_of(openai, priority_field=field) as target:
        for request_class in (LS, BE):
            await read(target, Ask(request_class, [1], 1))
    told = [{name: body[name] for name in ("service_tier", "priority") if name in body} for body in openai.bodies]
    assert told == [ls, be]


async def test_salts_and_sessions_are_fields_that_only_requests_with_a_value_have_where_they_may_be_refused(
    openai: FakeOpenAI,
) -> None:
    openai.refused_fields = ("cache_salt",)
    async with target_of(openai) as target:
        facts = await target.prepare()
        assert facts.details["cache_salt"] == "refused"
        openai.refused_fields = ()
        openai.bodies.clear()
        for turn in (Turn("a", "search"), Turn("a", is_last=True), None):
            await read(target, Ask(LS, [1], 1, cache_salt="mine" if turn is None else "", turn=turn))
    names = ("session_id", "expects_tool_call", "last_turn", "cache_salt")
    assert [{name: body[name] for name in names if name in body} for body in openai.bodies] == [
        {"session_id": "a", "expects_tool_call": "search"},
        {"session_id": "a", "last_turn": True},
        {"cache_salt": "mine"},
    ]


async def test_a_server_that_takes_a_salt_is_sent_one_for_all_requests_of_a_run(openai: FakeOpenAI) -> None:
    for _ in range(2):
        async with target_of(openai) as target:
            facts = await target.prepare()
            for salt in ("", "mine"):
                await read(target, Ask(LS, [1], 1, cache_salt=salt))
    assert facts.details["cache_salt"] == "new in each run"
    probe, plain, own, *_, of_next_run = (body["cache_salt"] for body in openai.bodies)
    assert (probe, own) == (plain, f"{plain} mine")
    assert of_next_run != own


async def test_chat_sends_one_message(openai: FakeOpenAI) -> None:
    async with target_of(openai, chat=True, ignore_eos=False, extra={"seed": 7, "temperature": 0.5}) as target:
        await read(target, Ask(LS, "hello", 1))
    assert openai.paths == ["/v1/chat/completions"]
    (body,) = openai.bodies
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    assert (body["seed"], body["temperature"], "prompt" in body, "ignore_eos" in body) == (7, 0.5, False, False)


async def test_the_first_model_served_is_asked_unless_one_is_named(openai: FakeOpenAI) -> None:
    async with target_of(openai, model=None) as target:
        facts = await target.prepare()
    assert (facts.model, openai.bodies[0]["model"], facts.vocab_size) == ("first", "first", None)


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_the_url_may_end_with_the_version(openai: FakeOpenAI, suffix: str) -> None:
    openai.url += suffix
    async with target_of(openai) as target:
        await read(target, Ask(LS, [1], 1))
    assert openai.paths == ["/v1/completions"]


async def test_optional_fields_that_the_server_refuses_are_left_out(openai: FakeOpenAI) -> None:
    openai.refused_fields = ("return_token_ids", "stream_options")
    openai.script = lambda body: completion(body["max_tokens"], token_ids=False, usage=False)
    async with target_of(openai) as target:
        facts = await target.prepare()
        items = await read(target, Ask(LS, [1], 2))
    assert facts.details["token_counts"] == "usage, or one a chunk"
    assert items == [Chunk(1, is_exact=False)] * 2 + [Ending()]


async def test_a_field_that_was_asked_for_is_never_left_out(openai: FakeOpenAI) -> None:
    openai.refused_fields = ("service_tier",)
    async with target_of(openai) as target:
        with pytest.raises(TargetFailed, match=r"HTTP 400: unknown field service_tier.*--priority-field none"):
            await target.prepare()


async def test_events_may_be_cut_anywhere_and_joined(openai: FakeOpenAI) -> None:
    whole = b": a comment\r\n\r\n" + b"".join(completion(5)).replace(b"\n", b"\r\n")
    openai.script = lambda body: [whole[at : at + 7] for at in range(0, len(whole), 7)]
    async with target_of(openai) as target:
        cut = await read(target, Ask(LS, [1], 5))
        openai.script = lambda body: [whole]
        joined = await read(target, Ask(LS, [1], 5))
    tokens = [Chunk(1, token_ids=(number,)) for number in range(5)]
    assert cut == joined == [*tokens, Ending(5, 11, None)]


@pytest.mark.parametrize(("status", "kind"), [(429, "HTTP 429"), (503, "HTTP 503")])
async def test_a_refusal_is_a_failure_with_its_status_and_message(openai: FakeOpenAI, status: int, kind: str) -> None:
    openai.status = status
    async with target_of(openai) as target:
        with pytest.raises(RequestFailed, match="the server said no") as caught:
            await read(target, Ask(LS, [1], 1))
    assert caught.value.kind == kind


async def test_a_stream_that_breaks_off_is_a_failure(openai: FakeOpenAI) -> None:
    openai.script = lambda body: completion(5)[:2]
    async with target_of(openai) as target:
        with pytest.raises(RequestFailed) as caught:
            await read(target, Ask(LS, [1], 5))
    assert caught.value.kind == "stream cut"


async def test_no_server_is_said_plainly() -> None:
    nobody = FakeOpenAI(url="http://127.0.0.1:9")
    async with target_of(nobody, model=None) as target:
        with pytest.raises(TargetFailed, match=r"no server answers at http://127.0.0.1:9/v1/models"):
            await target.prepare()
    async with target_of(nobody) as target:
        with pytest.raises(TargetFailed, match="ConnectError"):
            await target.prepare()


async def test_the_key_of_the_environment_is_sent(openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    async with target_of(openai) as target:
        assert target._http.headers["Authorization"] == "Bearer secret"
