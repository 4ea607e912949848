"""A command says what is refused by the names of its options, and reads of files and values fail in words."""

from pathlib import Path

import pytest
from qllm import InvalidRequest
from qllm.client.cli.chat.command import ChatSettings
from qllm.client.cli.generate import GenerateSettings
from qllm.client.cli.numbers import rounded, rounded_values
from qllm.client.cli.option_names import OptionNames

from tests.unit.client.fake_service import FakeService
from tests.unit.client.in_process import Finished, run_here

MESSAGES = [
    ("sampling.temperature: got 200.0, allowed is 0", "--temperature: got 200.0, allowed is 0"),
    ("sampling.bad_words[2]: got '', allowed is a text", "--bad-word: got '', allowed is a text"),
    ("stop.max_tokens: got 0, allowed is 1 to 9", "--max-tokens: got 0, allowed is 1 to 9"),
    ("stop.min_tokens: got 9, allowed is 0 to max_tokens", "--min-tokens: got 9, allowed is 0 to --max-tokens"),
    ("stop.stop_token_ids: got 70 ids, allowed is 64", "--stop-token-id: got 70 ids, allowed is 64"),
    ("stop.stop_strings[0]: got '', allowed is a text", "--stop: got '', allowed is a text"),
    ("beam_search.beam_width: got 0, allowed is 1", "--beam-width: got 0, allowed is 1"),
    ("structure.json_schema: got 'x', allowed is JSON", "--json-schema: got 'x', allowed is JSON"),
    ("structure.choices.texts[1]: got '', allowed is a text", "--choice: got '', allowed is a text"),
    ("targets.ttft_ms: got -1.0, allowed is 0", "--ttft-ms: got -1.0, allowed is 0"),
    ("session.session_id: got 'é', allowed is ASCII", "--session-id: got 'é', allowed is ASCII"),
    ("num_prompt_logprobs: got 99, allowed is 20", "--prompt-logprobs: got 99, allowed is 20"),
    ("request_class: got 'x', allowed is 'ls'", "--class: got 'x', allowed is 'ls'"),
    ("cache_salt: got 'cache_salt', allowed is less", "--cache-salt: got 'cache_salt', allowed is less"),
    # What no option sets stays as it is.
    ("chat.messages[0].role: got 'x', allowed is 'user'", "chat.messages[0].role: got 'x', allowed is 'user'"),
    ("the model has no chat template", "the model has no chat template"),
]


async def generate(service: FakeService, *arguments: str) -> Finished:
    return await run_here("generate", "--address", service.address, *arguments, "hi", COLUMNS="200")


@pytest.mark.parametrize(("message", "said"), MESSAGES)
def test_a_refusal_names_the_option_that_sets_the_field(message: str, said: str) -> None:
    assert OptionNames(GenerateSettings).told(InvalidRequest(message)) == f"INVALID_ARGUMENT: {said}"


def test_each_command_names_its_own_options() -> None:
    told = OptionNames(ChatSettings).told(InvalidRequest("session.session_id: got 'é', allowed is ASCII"))
    assert told == "INVALID_ARGUMENT: --session: got 'é', allowed is ASCII"


async def test_what_goes_along_with_another_option_only_says_which(service: FakeService) -> None:
    finished = await generate(service, "--num-returned", "2")
    words = "--num-returned: got 2, allowed is one together with --beam-width only"
    assert (finished.code, finished.err) == (1, f"qllm-client: INVALID_ARGUMENT: {words}\n")


@pytest.mark.parametrize(
    ("name", "why"),
    [("none.json", "it cannot be read: No such file or directory"), ("latin.json", "it is not UTF-8 text")],
)
async def test_a_file_that_cannot_be_read_says_why(service: FakeService, tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "latin.json").write_bytes(b'"gr\xfc\xdfe"')
    finished = await generate(service, "--json-schema", str(tmp_path / name))
    assert finished.code == 2
    flat = "".join(finished.err.replace("│", "").split())  # the box breaks the path where it is full
    assert f"{tmp_path / name}:{why}".replace(" ", "") in flat


def test_all_times_in_json_have_as_many_digits() -> None:
    usage = {"prompt_tokens": 3, "queue_ms": 1.23456789, "decode_ms": 1e-9}
    assert rounded_values(usage) == {"prompt_tokens": 3, "queue_ms": rounded(1.235), "decode_ms": 0.0}
