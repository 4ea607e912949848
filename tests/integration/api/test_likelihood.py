"""How probable a text is: over gRPC, HTTP and the Python client, of the demo model, as transformers has it."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import httpx2
import openai
import pytest
import torch
from qllm import Client, InvalidRequest
from qllm.v1 import inference_pb2 as pb
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.service.live_service import ROOT, LiveService

MODEL = ROOT / "demo" / "model"
TEXT = "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n"
TOLERANCE = 1e-4


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL)


@cache
def expected(token_ids: tuple[int, ...]) -> torch.Tensor:
    """Logarithms of probabilities behind each token (T, V)."""
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    with torch.inference_mode():
        return model(torch.tensor([token_ids])).logits[0].log_softmax(-1)


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(tokenizer()(text)["input_ids"])


def own(token_ids: tuple[int, ...]) -> list[float]:
    """Of each token but the first."""
    rows = expected(token_ids)[:-1]
    return rows.gather(1, torch.tensor(token_ids[1:])[:, None])[:, 0].tolist()


@pytest.fixture
def http(live_service: LiveService, http_port: int) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"http://127.0.0.1:{http_port}/v1", timeout=300) as http:
        yield http


def post(http: httpx2.Client, **body: Any) -> dict[str, Any]:
    response = http.post("/completions", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("request_class", ["ls", "be"])
def test_the_python_client_gets_the_log_probabilities_of_transformers(
    live_service: LiveService, request_class: str
) -> None:
    with Client(live_service.grpc_address) as client:
        ids = ids_of(TEXT)
        for _ in range(2):  # nothing that was cached changes anything
            result = client.generate(ids, request_class=request_class, num_prompt_logprobs=2, max_tokens=0).collect()
            assert (result.token_ids, result.text, result.finish_reason) == ((), "", "length")
            assert tuple(token.token_id for token in result.prompt_logprobs) == ids[1:]
            assert [token.logprob for token in result.prompt_logprobs] == pytest.approx(own(ids), abs=TOLERANCE)
            best = expected(ids)[:-1].topk(2)
            told = [[one.logprob for one in token.alternatives] for token in result.prompt_logprobs]
            torch.testing.assert_close(torch.tensor(told), best.values, atol=TOLERANCE, rtol=0)
            assert [token.alternatives[0].token_id for token in result.prompt_logprobs] == best.indices[:, 0].tolist()
            assert result.usage.cached_tokens == 0
            assert result.usage.prompt_tokens == len(ids)
        continued = client.generate(TEXT, num_prompt_logprobs=0, max_tokens=4, temperature=0).collect()
        plain = client.generate(TEXT, max_tokens=4, temperature=0).collect()
    assert continued.token_ids == plain.token_ids
    assert plain.usage.cached_tokens > 0
    assert {token.rank == 1 for token in continued.prompt_logprobs} == {True, False}


def test_a_long_prompt_comes_in_pieces_that_follow_one_another(live_service: LiveService) -> None:
    ids = (ids_of(TEXT) * 60)[:1500]
    request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids), num_prompt_logprobs=20)
    request.stop.max_tokens = 1
    with live_service.channel() as channel:
        answers = list(live_service.inference(channel).Generate(request, timeout=300))
    told = [answer.prompt_logprobs for answer in answers if answer.HasField("prompt_logprobs")]
    places = [place for one in told for place in range(one.first_position, one.first_position + len(one.token_ids))]
    assert places == list(range(1, len(ids)))
    logprobs = [logprob for one in told for logprob in one.logprobs]
    torch.testing.assert_close(torch.tensor(logprobs), torch.tensor(own(ids)), atol=TOLERANCE, rtol=0)
    assert all(len(one.alternative_ids) == 20 * len(one.token_ids) for one in told)


def test_what_lm_evaluation_harness_sends_is_answered_as_it_reads_it(http: httpx2.Client) -> None:
    prompts = [list(ids_of(TEXT)), list(ids_of("import os\n\n\ndef main():"))]
    body = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    answer = post(http, prompt=prompts, **body)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    for ids, choice in zip(prompts, answer["choices"], strict=True):
        told = choice["logprobs"]
        assert len(told["tokens"]) == len(ids) + 1
        assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
        assert told["token_logprobs"][1:-1] == pytest.approx(own(tuple(ids)), abs=TOLERANCE)
        best = expected(tuple(ids))[:-1].max(-1)
        tops = [max(top.values()) for top in told["top_logprobs"][1:-1]]
        assert tops == pytest.approx(best.values.tolist(), abs=TOLERANCE)
        is_greedy = [one == top for one, top in zip(told["token_logprobs"][1:-1], tops, strict=True)]
        assert is_greedy == [a == b for a, b in zip(ids[1:], best.indices.tolist(), strict=True)]
        assert choice["text"].startswith(tokenizer().decode(ids))


@pytest.mark.parametrize("logprobs", [None, 0, 2])
@pytest.mark.parametrize("max_tokens", [0, 3])
def test_an_echo_is_the_prompt_and_then_the_answer_streamed_or_whole(
    http: httpx2.Client, logprobs: int | None, max_tokens: int
) -> None:
    body = {
        "prompt": ["def fibonacci(n):", "import os, "],
        "echo": True,
        "max_tokens": max_tokens,
        "temperature": 0,
        "n": 2,
    }
    body |= {} if logprobs is None else {"logprobs": logprobs}
    choices = post(http, **body)["choices"]
    assert len(choices) == 4
    client = openai.OpenAI(base_url=str(http.base_url), api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    texts, tokens, offsets = ([""] * 4, [[], [], [], []], [[], [], [], []])  # type: ignore[var-annotated]
    for chunk in client.completions.create(model=model, stream=True, **body):  # type: ignore[call-overload]
        for part in chunk.choices:
            texts[part.index] += part.text
            if part.logprobs is not None:
                tokens[part.index] += part.logprobs.tokens
                offsets[part.index] += part.logprobs.text_offset
    for index, choice in enumerate(choices):
        prompt = body["prompt"][index // 2]
        assert choice["text"] == texts[index]
        assert choice["text"].startswith(prompt)
        assert (choice["text"] == prompt) == (max_tokens == 0)
        if logprobs is None:
            assert choice["logprobs"] is None
            continue
        told = choice["logprobs"]
        assert (told["tokens"], told["text_offset"]) == (tokens[index], offsets[index])
        assert len(told["tokens"]) == len(ids_of(prompt)) + max_tokens
        for token, offset, top in zip(told["tokens"], told["text_offset"], told["top_logprobs"], strict=True):
            assert choice["text"].startswith(token, offset) or token in tokenizer().all_special_tokens
            assert top is None or token in top


def test_prompt_logprobs_have_the_form_of_vllms(http: httpx2.Client) -> None:
    ids = ids_of(TEXT)
    [choice] = post(http, prompt=TEXT, prompt_logprobs=2, max_tokens=0)["choices"]
    first, *others = choice["prompt_logprobs"]
    assert first is None
    for token_id, row, entry in zip(ids[1:], expected(ids), others, strict=False):
        rank = int((row > row[token_id]).sum()) + 1
        assert entry[str(token_id)]["rank"] == rank
        assert entry[str(token_id)]["logprob"] == pytest.approx(float(row[token_id]), abs=TOLERANCE)
        assert entry[str(token_id)]["decoded_token"] == tokenizer().decode([token_id])
        assert [int(one) for one in entry] == list(dict.fromkeys([token_id, *row.topk(2).indices.tolist()]))
    chat = http.post(
        "/chat/completions",
        json={"messages": [{"role": "user", "content": "hi"}], "prompt_logprobs": 0, "max_tokens": 1},
    ).json()
    assert len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"]
    assert "prompt_logprobs" not in chat["choices"][0]


def test_a_prompt_that_is_cut_keeps_its_last_tokens(http: httpx2.Client, live_service: LiveService) -> None:
    ids = ids_of(TEXT)
    [choice] = post(http, prompt=TEXT, truncate_prompt_tokens=5, echo=True, logprobs=0, max_tokens=0)["choices"]
    assert choice["text"] == tokenizer().decode(ids[-5:])
    assert len(choice["logprobs"]["tokens"]) == 5
    with Client(live_service.grpc_address) as client:
        long = client.generate(ids * 100, truncate_prompt_tokens=-1, max_tokens=7, ignore_eos=True).collect()
    context = live_service.model_facts.max_model_len
    assert (long.usage.prompt_tokens, long.usage.completion_tokens) == (context - 7, 7)


def test_what_ends_a_text_may_be_a_part_of_it(http: httpx2.Client) -> None:
    body: dict[str, Any] = {"prompt": "def fibonacci(n):", "max_tokens": 40, "temperature": 0}
    [whole] = post(http, **body)["choices"]
    stop = whole["text"][5:9]
    end = whole["text"].index(stop)
    for includes, expected_text in ((False, whole["text"][:end]), (True, whole["text"][: end + 4])):
        [choice] = post(http, **body, stop=stop, include_stop_str_in_output=includes)["choices"]
        assert (choice["text"], choice["finish_reason"]) == (expected_text, "stop")
    [ids] = [choice["token_ids"] for choice in post(http, **body, return_token_ids=True)["choices"]]
    [choice] = post(http, **body, stop_token_ids=ids[4:5], include_stop_str_in_output=True)["choices"]
    assert choice["text"] == tokenizer().decode(ids[: ids.index(ids[4]) + 1])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"max_tokens": 0}, ("max_tokens", "got 0", "echo")),
        ({"prompt_logprobs": 21}, ("prompt_logprobs", "21", "[0, 20]")),
        ({"prompt_logprobs": -1}, ("prompt_logprobs", "-1")),
        ({"prompt_logprobs": 0, "stream": True}, ("prompt_logprobs", "streamed")),
        ({"truncate_prompt_tokens": 0}, ("truncate_prompt_tokens", "got 0")),
        ({"truncate_prompt_tokens": 5000}, ("truncate_prompt_tokens", "5000")),
        ({"typical_p": 0}, ("typical_p", "(0, 1]")),
        ({"prompt": [[5] * 1500] * 8, "echo": True, "logprobs": 20}, ("logprobs", "252000", "131072")),
    ],
)
def test_bad_values_are_refused_by_name(http: httpx2.Client, body: dict[str, Any], words: tuple[str, ...]) -> None:
    response = http.post("/completions", json={"prompt": TEXT} | body)
    assert response.status_code == 400
    assert all(word in response.text for word in words), response.text


def test_bad_values_are_refused_over_grpc_too(live_service: LiveService) -> None:
    with Client(live_service.grpc_address) as client:
        for options, word in (
            ({"max_tokens": 0}, "stop.max_tokens"),
            ({"num_prompt_logprobs": 21}, "num_prompt_logprobs"),
            ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
            ({"typical_p": 1.5}, "sampling.typical_p"),
        ):
            with pytest.raises(InvalidRequest, match=word):
                client.generate(TEXT, **options).collect()  # type: ignore[arg-type]
