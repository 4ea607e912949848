"""Beam search from Python and from the command: what is asked for, and what was found."""

import json
from collections.abc import AsyncIterator

import pytest
from qllm import AsyncClient, FinishReason, Hypothesis, InvalidRequest
from qllm.v1 import inference_pb2 as pb

from tests.unit.client.fake_service import FakeService
from tests.unit.client.in_process import Finished, run_here


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.address) as client:
        yield client


async def generate(service: FakeService, *arguments: str) -> Finished:
    return await run_here("generate", "--address", service.address, "--beam-width", "4", *arguments, "hi")


async def test_the_result_has_all_texts_and_the_best_ones_fields(client: AsyncClient, service: FakeService) -> None:
    stream = client.generate(
        "hi", beam_width=4, num_returned=2, length_penalty=0, early_stopping="never", patience=2, max_tokens=3
    )
    (delta,) = [delta async for delta in stream]
    second = Hypothesis("text 1", (1, 9), (-0.5, -0.25), -1.5, FinishReason.LENGTH, None)
    assert stream.result.hypotheses == delta.hypotheses
    assert stream.result.hypotheses[1] == second
    assert (stream.result.text, stream.result.token_ids) == ("text 0", (0, 9))
    assert service.requests[0].beam_search == pb.BeamSearch(
        beam_width=4, num_returned=2, length_penalty=0, early_stopping=pb.EARLY_STOPPING_NEVER, patience=2
    )


async def test_without_a_width_there_is_no_search(client: AsyncClient, service: FakeService) -> None:
    result = await client.generate("hi", max_tokens=1).collect()
    assert not service.requests[0].HasField("beam_search")
    assert result.hypotheses == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patience": 2}, "patience: got 2, allowed is one together with beam_width only"),
        ({"beam_width": 2, "early_stopping": "soon"}, "soon"),
    ],
)
async def test_what_makes_no_search_is_refused_before_it_is_sent(
    client: AsyncClient, options: dict[str, object], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        client.generate("hi", **options)  # type: ignore[arg-type]


async def test_the_command_prints_each_text_behind_its_score(service: FakeService) -> None:
    finished = await generate(service, "--num-returned", "2", "--early-stopping", "yes", "--patience", "0.5")
    assert finished.out.splitlines() == ["[-0.500] text 0", "[-1.500] text 1"]
    expected = pb.BeamSearch(beam_width=4, num_returned=2, early_stopping=pb.EARLY_STOPPING_YES, patience=0.5)
    assert service.requests[0].beam_search == expected


async def test_the_command_prints_one_text_as_it_is_and_all_as_json(service: FakeService) -> None:
    assert (await generate(service)).out == "text 0\n"
    answer = json.loads((await generate(service, "--json")).out)
    assert [one["score"] for one in answer["hypotheses"]] == [-0.5]
