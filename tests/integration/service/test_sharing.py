"""Prompts that begin alike share what is cached, over both APIs, and both processes agree on who holds it meanwhile."""

import json
import random
import urllib.request
from collections.abc import Sequence

from qllm.v1 import admin_pb2, admin_pb2_grpc
from qllm.v1 import inference_pb2 as pb

from tests.support.service.live_service import LiveService

PATIENCE_S = 300
RNG = random.Random(5)


def new_prompt(num_tokens: int = 100) -> list[int]:
    """Tokens that no other test has."""
    return [RNG.randrange(50, 1000) for _ in range(num_tokens)]


def request(prompt: Sequence[int], max_tokens: int = 4, **fields: object) -> pb.GenerateRequest:
    stop = pb.StopConditions(max_tokens=max_tokens, ignore_eos=True)
    sampling = pb.SamplingParams(temperature=0)
    return pb.GenerateRequest(token_ids=pb.TokenIds(ids=prompt), stop=stop, sampling=sampling, **fields)  # type: ignore[arg-type]


def over_grpc(service: LiveService, message: pb.GenerateRequest) -> tuple[list[int], int]:
    """Returns the tokens of the answer, and how many of the prompt's were found."""
    with service.channel() as channel:
        responses = list(service.inference(channel).Generate(message, timeout=PATIENCE_S))
    token_ids = [token_id for response in responses for token_id in response.token_ids]
    return token_ids, responses[-1].finish.usage.cached_tokens


def over_http(port: int, **body: object) -> int:
    """Returns how many tokens of the prompt were found."""
    url, content = f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode()
    asked = urllib.request.Request(url, content, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=PATIENCE_S) as response:
        found: int = json.load(response)["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


def check(service: LiveService) -> admin_pb2.IntegrityCheck:
    with service.channel() as channel:
        asked = admin_pb2.GetLoadsRequest(check=True)
        return admin_pb2_grpc.AdminServiceStub(channel).GetLoads(asked, timeout=PATIENCE_S).check


def test_the_second_of_two_prompts_that_begin_alike_finds_what_the_first_computed(
    live_service: LiveService, http_port: int
) -> None:
    prompt, block_size = new_prompt(), live_service.model_facts.block_size
    first_ids, first_found = over_grpc(live_service, request(prompt))
    again_ids, again_found = over_grpc(live_service, request(prompt, request_class=pb.REQUEST_CLASS_BEST_EFFORT))
    assert (first_found, again_ids) == (0, first_ids)
    assert again_found == len(prompt) // block_size * block_size
    assert over_http(http_port, prompt=[*prompt[:64], *new_prompt(36)], max_tokens=4) == 64


def test_requests_of_different_salts_find_nothing_of_each_other(live_service: LiveService, http_port: int) -> None:
    prompt = new_prompt()
    found = [over_grpc(live_service, request(prompt, cache_salt=salt))[1] for salt in ("a", "b", "", "a")]
    assert found[:3] == [0, 0, 0]
    assert found[3] > 0
    assert over_http(http_port, prompt=prompt, max_tokens=4, cache_salt="b") == found[3]


def test_both_processes_agree_on_who_holds_what_while_work_goes_on(live_service: LiveService) -> None:
    prompt = new_prompt(300)
    asked = [
        request(prompt, 40, request_class=one)
        for one in (pb.REQUEST_CLASS_LATENCY_SENSITIVE, pb.REQUEST_CLASS_BEST_EFFORT) * 3
    ]
    with live_service.channel() as channel:
        streams = [live_service.inference(channel).Generate(one, timeout=PATIENCE_S) for one in asked]
        next(streams[0])
        found = check(live_service)
        assert found.num_held_blocks > 0
        assert list(found.problems) == []
        for stream in streams:
            for _ in stream:
                pass
    after = check(live_service)
    assert (after.num_held_blocks, after.num_sequences, list(after.problems)) == (0, 0, [])
