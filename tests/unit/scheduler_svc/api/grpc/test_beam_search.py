"""Beam search over gRPC: one message at the end, with all that was found."""

import grpc
import pytest
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.core.beams.params import BeamParams, EarlyStopping
from scheduler_svc.text.tokenizer import Tokenizer
from tests.support.models.sample_tokenizers import EOS_ID, byte_level_tokenizer
from tests.support.service.api_service import collect, running
from tests.support.service.fakes import FakeGenerator

TOKENIZER = Tokenizer(byte_level_tokenizer().to_str().encode())
WORDS = list(TOKENIZER.encode("abc", add_special_tokens=False))


async def test_the_only_message_has_all_texts_and_the_best_ones_fields() -> None:
    async with running(FakeGenerator(script=lambda _: [*WORDS, EOS_ID])) as service:
        search = pb.BeamSearch(beam_width=4, num_returned=2)
        (message,) = await collect(service, pb.GenerateRequest(text="hello", beam_search=search))
    best, second = message.hypotheses
    assert (message.text, list(message.token_ids)) == (best.text, list(best.token_ids)) == ("abc", [*WORDS, EOS_ID])
    assert message.finish.reason == best.reason == pb.FINISH_REASON_STOP
    assert second.reason == pb.FINISH_REASON_LENGTH
    assert (best.score, second.score) == (-0.25, -0.5)
    assert len(second.logprobs) == len(second.token_ids) == len(WORDS)


@pytest.mark.parametrize(
    ("search", "params"),
    [
        (pb.BeamSearch(beam_width=3), BeamParams(3)),
        (
            pb.BeamSearch(beam_width=3, length_penalty=0, patience=2, early_stopping=pb.EARLY_STOPPING_YES),
            BeamParams(3, 1, 0.0, EarlyStopping.YES, 2.0),
        ),
        (
            pb.BeamSearch(beam_width=1, early_stopping=pb.EARLY_STOPPING_NEVER),
            BeamParams(1, 1, 1.0, EarlyStopping.NEVER),
        ),
    ],
)
async def test_a_search_is_as_its_message_says(search: pb.BeamSearch, params: BeamParams) -> None:
    async with running(FakeGenerator()) as service:
        await collect(service, pb.GenerateRequest(text="hello", beam_search=search))
    assert service.generator.submitted[0].beams == params


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (pb.GenerateRequest(beam_search=pb.BeamSearch()), ("beam_search.beam_width", "got 0", "[1, 16]")),
        (
            pb.GenerateRequest(beam_search=pb.BeamSearch(beam_width=2, num_returned=3)),
            ("beam_search.num_returned", "got 3", "1 to 2"),
        ),
        (
            pb.GenerateRequest(beam_search=pb.BeamSearch(beam_width=2, early_stopping=9)),  # type: ignore[arg-type]
            ("beam_search.early_stopping", "got 9", "EARLY_STOPPING_NEVER"),
        ),
        (
            pb.GenerateRequest(beam_search=pb.BeamSearch(beam_width=2), sampling=pb.SamplingParams(temperature=1)),
            ("sampling.temperature", "draws no tokens"),
        ),
        (
            pb.GenerateRequest(beam_search=pb.BeamSearch(beam_width=2), num_top_logprobs=1),
            ("num_top_logprobs", "0 with"),
        ),
        (
            pb.GenerateRequest(beam_search=pb.BeamSearch(beam_width=2), structure=pb.Structure(regex="a")),
            ("structure.regex", "got 'a'", "no structure"),
        ),
        (
            pb.GenerateRequest(
                beam_search=pb.BeamSearch(beam_width=2), structure=pb.Structure(choices=pb.Choices(texts=["a", "b"]))
            ),
            ("structure.choices", "got ['a', 'b']", "no structure"),
        ),
    ],
)
async def test_what_makes_no_sense_is_refused_by_field(request_: pb.GenerateRequest, words: tuple[str, ...]) -> None:
    request_.text = "hello"
    async with running(FakeGenerator()) as service:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await collect(service, request_)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert all(word in (error.value.details() or "") for word in words), error.value.details()
