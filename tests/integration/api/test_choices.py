"""Several choices on the demo model: over gRPC, HTTP and from Python the same, and those of requests alone."""

import json
from functools import partial
from typing import Any

import openai
import pytest
from qllm import Client, RequestClass

from tests.support.service.live_service import ROOT, LiveService

PROMPT = "def fibonacci(n):"
SEED, NUM_CHOICES, NUM_TOKENS = 6, 3, 12
FIXED = {"temperature": 1.0, "max_tokens": NUM_TOKENS, "ignore_eos": True}


def over_http(port: int, **fields: Any) -> list[Any]:
    """Returns the choices of a completion."""
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=300) as client:
        answer = client.completions.create(model="", prompt=PROMPT, extra_body={**fields, "model": None})
    return list(answer.choices)


def token_ids_over_http(port: int, tier: str, **fields: Any) -> list[list[int]]:
    choices = over_http(port, service_tier=tier, seed=SEED, return_token_ids=True, **FIXED, **fields)
    return [choice.model_extra["token_ids"] for choice in choices]


@pytest.mark.parametrize(
    ("request_class", "tier"), [(RequestClass.LATENCY_SENSITIVE, "default"), (RequestClass.BEST_EFFORT, "flex")]
)
def test_choices_are_the_same_everywhere_and_those_of_the_documented_seeds_alone(
    live_service: LiveService, http_port: int, request_class: RequestClass, tier: str
) -> None:
    with Client(live_service.grpc_address) as client:
        generate = partial(client.generate, PROMPT, request_class=request_class, **FIXED)  # type: ignore[arg-type]
        several = generate(num_choices=NUM_CHOICES, seed=SEED).collect()
        alone = [generate(seed=SEED ^ index).collect() for index in range(NUM_CHOICES)]
        best = generate(num_choices=2, best_of=NUM_CHOICES, seed=SEED).collect()
    assert [choice.token_ids for choice in several.choices] == [one.token_ids for one in alone]
    assert [choice.text for choice in several.choices] == [one.text for one in alone]
    assert len({one.token_ids for one in alone}) == NUM_CHOICES
    assert [list(one.token_ids) for one in alone] == token_ids_over_http(http_port, tier, n=NUM_CHOICES)
    ranked = sorted(alone, key=lambda one: -sum(one.logprobs) / len(one.logprobs))
    assert [choice.token_ids for choice in best.choices] == [one.token_ids for one in ranked[:2]]
    assert [list(choice.token_ids) for choice in best.choices] == token_ids_over_http(
        http_port, tier, n=2, best_of=NUM_CHOICES
    )


def test_abort_ends_all_choices(live_service: LiveService, http_port: int) -> None:
    with Client(live_service.grpc_address) as client:
        stream = client.generate(PROMPT, num_choices=3, max_tokens=1500, ignore_eos=True, request_id="several")
        deltas = iter(stream)
        next(deltas)
        assert client.abort("several")
        assert len({delta.choice_index for delta in deltas}) == 3
        assert {choice.finish_reason for choice in stream.result.choices} == {"aborted"}
        assert not client.abort("several")


def test_special_tokens_are_shown_if_asked_for(live_service: LiveService, http_port: int) -> None:
    """The end token is let through, so that it stands in the text; both APIs write the same."""
    eos_ids = json.loads((ROOT / "demo" / "model" / "generation_config.json").read_text())["eos_token_id"]
    fields = {"temperature": 0.0, "max_tokens": 4, "ignore_eos": True}
    with Client(live_service.grpc_address) as client:
        generate = partial(client.generate, PROMPT, allowed_token_ids=eos_ids[:1], **fields)  # type: ignore[arg-type]
        hidden, shown = generate().collect(), generate(show_special_tokens=True).collect()
    [choice] = over_http(http_port, allowed_token_ids=eos_ids[:1], skip_special_tokens=False, **fields)
    assert hidden.text == ""
    assert shown.text == choice.text != ""
    assert shown.text == shown.text[: len(shown.text) // 4] * 4
