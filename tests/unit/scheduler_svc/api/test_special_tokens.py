"""Special tokens in the text, over both APIs: shown where that is asked for, and the one that ends the text with it."""

from typing import Any

import pytest
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.text.tokenizer import Tokenizer
from tests.support.models.sample_tokenizers import EOS_ID, byte_level_tokenizer
from tests.support.service.api_service import collect, running
from tests.support.service.fakes import FakeGenerator
from tests.support.service.openai_service import CHAT, COMPLETIONS, USER_SAYS_HI, http_app

TOKENIZER = Tokenizer(byte_level_tokenizer().to_str().encode())
EOS = TOKENIZER.token_text(EOS_ID)
A, B = (TOKENIZER.encode(letter, add_special_tokens=False)[0] for letter in "ab")
SCRIPT = [A, EOS_ID, B, EOS_ID]
# What is said of the end, and the text with special tokens and without.
CASES: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({}, "a", "a"),
    ({"include_stop_string": True}, f"a{EOS}", "a"),
    ({"stop_strings": [EOS]}, "a", "a"),
    ({"stop_strings": [EOS], "include_stop_string": True}, f"a{EOS}", f"a{EOS}"),
    ({"stop_strings": [EOS + "\n"], "include_stop_string": True}, f"a{EOS}\n", f"a{EOS}\n"),
    ({"ignore_eos": True}, f"a{EOS}b{EOS}", "ab"),
    ({"min_tokens": 3}, f"a{EOS}b", "ab"),
    ({"min_tokens": 3, "include_stop_string": True}, f"a{EOS}b{EOS}", "ab"),
    ({"ignore_eos": True, "stop_strings": ["b"]}, f"a{EOS}", "a"),
)
HTTP_NAMES = {"stop_strings": "stop", "include_stop_string": "include_stop_str_in_output"}


def saying(tokens_per_event: int) -> FakeGenerator:
    return FakeGenerator(script=lambda _: SCRIPT, tokens_per_event=tokens_per_event)


@pytest.mark.parametrize("tokens_per_event", [1, 4])
@pytest.mark.parametrize(("stop", "shown", "hidden"), CASES)
async def test_text_over_grpc(stop: dict[str, Any], shown: str, hidden: str, tokens_per_event: int) -> None:
    texts = []
    async with running(saying(tokens_per_event)) as service:
        for shows in (True, False):
            request = pb.GenerateRequest(text="x", stop=pb.StopConditions(**stop), show_special_tokens=shows)
            texts.append("".join(message.text for message in await collect(service, request)))
    assert texts == [shown, hidden]


@pytest.mark.parametrize(("stop", "shown", "hidden"), CASES)
async def test_text_over_http(stop: dict[str, Any], shown: str, hidden: str) -> None:
    fields = {HTTP_NAMES.get(name, name): value for name, value in stop.items()}
    texts = []
    async with http_app(saying(1)) as service:
        for skips in (False, True, None):
            answer = await service.answer(COMPLETIONS, prompt="x", skip_special_tokens=skips, **fields)
            texts.append(answer["choices"][0]["text"])
    assert texts == [shown, hidden, hidden]


async def test_a_chat_shows_them_too() -> None:
    async with http_app(saying(1)) as service:
        answer = await service.answer(CHAT, messages=USER_SAYS_HI, skip_special_tokens=False, ignore_eos=True)
    assert answer["choices"][0]["message"]["content"] == f"a{EOS}b{EOS}"
