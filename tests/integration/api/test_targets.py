"""Requests with times of their own, through the whole service, over both APIs and with the service's own client."""

from collections.abc import Mapping
from typing import Any

import openai
import pytest
from qllm import Client, InvalidRequest, RequestClass
from qllm.v1 import admin_pb2

from tests.support.service.live_service import LiveService

PROMPT = "def fibonacci(n):"
OWN = ({"ttft_ms": 5000, "tpot_ms": 0}, {"ttft_ms": 0}, {"tpot_ms": 60_000}, {"ttft_ms": 3_600_000.0})
BAD = (
    ({"ttft_ms": -1}, "ttft_ms: got -1.0, allowed is a number in [0, 3600000], 0 for as soon as possible"),
    ({"tpot_ms": 60_000.5}, "tpot_ms: got 60000.5, allowed is a number in [0, 60000], 0 for as soon as possible"),
)
OF_BEST_EFFORT = "tpot_ms: got 50.0, allowed is nothing: a best-effort request is promised no time"


@pytest.fixture
def url(live_service: LiveService, http_port: int) -> str:
    return f"http://127.0.0.1:{http_port}/v1"


def create(url: str, api: str, extra: Mapping[str, Any], max_tokens: int = 4) -> str:
    """Asks through the SDK's client, which does not know the fields; returns the text."""
    options: Mapping[str, Any] = {"model": "model", "max_tokens": max_tokens, "temperature": 0, "extra_body": extra}
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300) as client:
        if api == "completions":
            return str(client.completions.create(prompt=PROMPT, **options).choices[0].text)
        messages: Any = [{"role": "user", "content": PROMPT}]
        return str(client.chat.completions.create(messages=messages, **options).choices[0].message.content)


def promised(live_service: LiveService) -> admin_pb2.ClassLoad:
    return live_service.loads().latency_sensitive


def test_targets_change_when_tokens_come_and_no_token(live_service: LiveService, url: str) -> None:
    with Client(live_service.grpc_address) as client:
        expected = client.generate(PROMPT, max_tokens=8, temperature=0).collect()
        for own in OWN:
            answer = client.generate(PROMPT, max_tokens=8, temperature=0, timeout_s=300, **own).collect()
            assert answer.token_ids == expected.token_ids
            assert create(url, "completions", own, max_tokens=8) == expected.text


def test_a_conversation_may_have_targets(url: str) -> None:
    assert create(url, "chat", OWN[0]) == create(url, "chat", {})


@pytest.mark.parametrize(("own", "message"), BAD, ids=lambda value: str(value)[:20])
def test_bad_targets_are_refused_with_field_value_and_what_is_allowed(
    live_service: LiveService, url: str, own: dict[str, float], message: str
) -> None:
    with Client(live_service.grpc_address) as client, pytest.raises(InvalidRequest) as refused:
        client.generate(PROMPT, **own).collect()  # type: ignore[arg-type]
    assert str(refused.value) == f"targets.{message}"
    for api in ("completions", "chat"):
        with pytest.raises(openai.BadRequestError) as caught:
            create(url, api, own)
        assert caught.value.body == {
            "message": message,
            "type": "invalid_request_error",
            "param": message.partition(":")[0],
            "code": None,
        }


def test_targets_of_best_effort_work_are_refused(live_service: LiveService, url: str) -> None:
    with Client(live_service.grpc_address) as client, pytest.raises(InvalidRequest) as refused:
        client.generate(PROMPT, request_class=RequestClass.BEST_EFFORT, tpot_ms=50).collect()
    assert str(refused.value) == f"targets.{OF_BEST_EFFORT}"
    for api in ("completions", "chat"):
        with pytest.raises(openai.BadRequestError) as caught:
            create(url, api, {"tpot_ms": 50, "service_tier": "flex"})
        assert caught.value.body["message"] == OF_BEST_EFFORT  # type: ignore[index]


def test_the_service_tells_what_it_promises(live_service: LiveService) -> None:
    info = live_service.info()
    assert (info.ls_ttft_ms, info.ls_tpot_ms) == (0.0, 50.0)


def test_an_answer_is_judged_by_its_own_targets_where_a_stop_string_ends_it_too(live_service: LiveService) -> None:
    with Client(live_service.grpc_address) as client:
        before = promised(live_service)
        first = client.generate(PROMPT, max_tokens=40, temperature=0, ttft_ms=3_600_000, tpot_ms=60_000).collect()
        stop = first.text[len(first.text) // 2 :][:3]
        ended = client.generate(
            PROMPT, max_tokens=1000, temperature=0, ttft_ms=3_600_000, tpot_ms=60_000, stop=[stop]
        ).collect()
        after = promised(live_service)
    assert ended.stop_string == stop
    assert after.num_judged - before.num_judged == 2
    assert after.num_attained - before.num_attained == 2
