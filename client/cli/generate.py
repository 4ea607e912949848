"""`qllm-client generate`: one prompt in, its text as it comes, or one line of JSON."""

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer
from qllm.client.cli.numbers import rounded, rounded_values
from qllm.client.cli.option_names import OptionNames
from qllm.client.cli.session import Address, address_default, connect, reporting, run
from qllm.client.files import FileRefused, read_text
from qllm.client.messages import ChatMessage, GenerateOptions, GenerationResult, Hypothesis, Prompt, RequestClass
from qllm.client.stream import GenerationStream
from qllm.options import with_settings
from qllm.settings import Setting

_REQUEST, _SAMPLING, _PROMPT = "Request", "Sampling", "Prompt"


class EarlyStopping(StrEnum):
    """When a beam search ends."""

    YES = "yes"
    NO = "no"
    NEVER = "never"


_EARLY_STOPPING: dict[EarlyStopping, bool | Literal["never"]] = {
    EarlyStopping.YES: True,
    EarlyStopping.NO: False,
    EarlyStopping.NEVER: "never",
}

EXAMPLES = """
[bold]Examples[/bold]

  qllm-client generate --max-tokens 64 "def fibonacci(n):"

  qllm-client generate --chat --system "Be brief." "What does zip do?"

  cat report.txt | qllm-client generate --class be --temperature 0 --json > answer.json
"""


@dataclass(frozen=True, slots=True)
class GenerateSettings:
    """What is asked for, and how the answer is shown."""

    request_class: Annotated[
        RequestClass,
        Setting(option="class", panel=_REQUEST),
        "Sets the class of the request: ls where someone is waiting for the answer, be for work that can wait.",
    ] = RequestClass.LATENCY_SENSITIVE
    max_tokens: Annotated[
        int | None,
        Setting(panel=_REQUEST, unset="256, or what still fits"),
        "Limits how many tokens are generated.",
    ] = None
    min_tokens: Annotated[
        int | None,
        Setting(panel=_REQUEST),
        "Lets nothing but --max-tokens end the text before so many tokens.",
    ] = None
    ignore_eos: Annotated[bool, Setting(panel=_REQUEST), "Goes on past the end-of-sequence token."] = False
    stop: Annotated[
        list[str] | None,
        Setting(panel=_REQUEST),
        "Ends the text at this string. It may be given several times.",
    ] = None
    stop_token_id: Annotated[
        list[int] | None,
        Setting(panel=_REQUEST),
        "Ends the text at this token. It may be given several times.",
    ] = None
    include_stop_string: Annotated[
        bool,
        Setting(panel=_REQUEST),
        "Leaves what ended the text at its end: the stop string, or the text of the stop token.",
    ] = False
    truncate_prompt_tokens: Annotated[
        int | None,
        Setting(panel=_REQUEST, unset="a prompt that is too long is refused"),
        "Keeps only so many tokens of the prompt, its last ones, with -1 as many as fit.",
    ] = None
    prompt_logprobs: Annotated[
        int | None,
        Setting(panel=_REQUEST, unset="none"),
        "Tells how probable each token of the prompt is, with so many of the most probable ones at its place. It goes "
        "with --json, and allows --max-tokens 0.",
    ] = None
    ttft_ms: Annotated[
        float | None,
        Setting(panel=_REQUEST, unset="what the service promises"),
        "Asks for the first token within so many milliseconds, with 0 as soon as possible. It goes with --class ls.",
    ] = None
    tpot_ms: Annotated[
        float | None,
        Setting(panel=_REQUEST, unset="what the service promises"),
        "Asks for a token every so many milliseconds after the first one, with 0 as soon as possible. It goes with "
        "--class ls.",
    ] = None
    cache_salt: Annotated[
        str | None,
        Setting(metavar="TEXT", panel=_REQUEST, unset="none, which all requests without one share"),
        "Keeps what is cached of the prompt apart, so that only requests with that salt reuse it.",
    ] = None
    session_id: Annotated[
        str | None,
        Setting(metavar="NAME", panel=_REQUEST),
        "Names the conversation, or agent's program, that the request is a turn of. What is cached of it may then be "
        "kept for the next turn.",
    ] = None
    expects_tool_call: Annotated[
        str | None,
        Setting(metavar="TOOL", panel=_REQUEST),
        "Names the tool that the answer is expected to call, after which the next turn comes. It goes with "
        "--session-id.",
    ] = None
    last_turn: Annotated[
        bool,
        Setting(panel=_REQUEST),
        "Says that no turn follows, so that nothing is kept for one. It goes with --session-id.",
    ] = False
    timeout_s: Annotated[
        float | None,
        Setting(0, is_finite=True, option="timeout", metavar="SECONDS", panel=_REQUEST, unset="no limit"),
        "Gives up after so long. With little time left a request of --class ls goes ahead of others.",
    ] = None
    as_json: Annotated[
        bool,
        Setting(option="json", panel=_REQUEST),
        "Prints one line of JSON at the end, and nothing else.",
    ] = False
    temperature: Annotated[
        float | None,
        Setting(panel=_SAMPLING, unset="the model's own"),
        "Sets how freely tokens are chosen. With 0 the most probable one is always taken.",
    ] = None
    top_k: Annotated[
        int | None,
        Setting(panel=_SAMPLING, unset="the model's own"),
        "Chooses among the k most probable tokens, with 0 among all of them.",
    ] = None
    top_p: Annotated[
        float | None,
        Setting(panel=_SAMPLING, unset="the model's own"),
        "Chooses among the fewest tokens whose probabilities together reach this one.",
    ] = None
    min_p: Annotated[
        float | None,
        Setting(panel=_SAMPLING, unset="the model's own"),
        "Chooses among the tokens that are at least this fraction as probable as the most probable one.",
    ] = None
    typical_p: Annotated[
        float | None,
        Setting(panel=_SAMPLING, unset="1"),
        "Chooses among the fewest typical tokens whose probabilities together reach this one.",
    ] = None
    seed: Annotated[int | None, Setting(panel=_SAMPLING, unset="a random one"), "Makes the choices repeatable."] = None
    repetition_penalty: Annotated[
        float | None,
        Setting(panel=_SAMPLING, unset="the model's own"),
        "Makes tokens that the prompt or the answer has less likely, above 1. With 1 nothing changes.",
    ] = None
    presence_penalty: Annotated[
        float | None,
        Setting(panel=_SAMPLING, unset="0"),
        "Is taken from the logits of tokens that the answer has.",
    ] = None
    frequency_penalty: Annotated[
        float | None,
        Setting(panel=_SAMPLING, unset="0"),
        "Is taken from the logit of each token as often as the answer has it.",
    ] = None
    n: Annotated[
        int | None,
        Setting(panel=_SAMPLING, unset="1"),
        "Draws so many texts beside one another, and prints each when all of it is there.",
    ] = None
    best_of: Annotated[
        int | None,
        Setting(panel=_SAMPLING, unset="as --n"),
        "Draws so many texts, and prints the most probable ones of them, as many as --n says.",
    ] = None
    show_special_tokens: Annotated[
        bool,
        Setting(panel=_REQUEST),
        "Prints special tokens as a part of the text.",
    ] = False
    beam_width: Annotated[
        int | None,
        Setting(panel=_SAMPLING, unset="no search"),
        "Searches for the most probable texts, so many beside one another, instead of sampling one. What is found "
        "comes at the end.",
    ] = None
    num_returned: Annotated[
        int | None,
        Setting(panel=_SAMPLING, unset="1"),
        "Prints so many of the texts found, each with its score. It goes with --beam-width.",
    ] = None
    length_penalty: Annotated[
        float | None,
        Setting(panel=_SAMPLING, unset="1"),
        "Has longer texts gain above 0, shorter ones below. It goes with --beam-width.",
    ] = None
    early_stopping: Annotated[
        EarlyStopping | None,
        Setting(panel=_SAMPLING, unset="no"),
        "Ends a search that has enough texts at once (yes), when none that goes on would be better if it ended (no), "
        "or when none could become better (never). It goes with --beam-width.",
    ] = None
    patience: Annotated[
        float | None,
        Setting(panel=_SAMPLING, unset="1"),
        "Wants --beam-width times so many texts before the search may end.",
    ] = None
    bad_word: Annotated[
        list[str] | None,
        Setting(metavar="WORD", panel=_SAMPLING),
        "Names a word that the answer shall not have. It may be given several times.",
    ] = None
    json_schema: Annotated[
        Path | None,
        Setting(metavar="FILE", panel=_SAMPLING),
        "Keeps the answer to JSON of the schema in this file.",
    ] = None
    regex: Annotated[
        str | None,
        Setting(panel=_SAMPLING),
        "Keeps the answer to a text that this regular expression matches as a whole.",
    ] = None
    choice: Annotated[
        list[str] | None,
        Setting(metavar="TEXT", panel=_SAMPLING),
        "Keeps the answer to one of these texts. It is given once for each.",
    ] = None
    chat: Annotated[
        bool | None,
        Setting(panel=_PROMPT, unset="no-chat, with --system chat"),
        "Puts the prompt through the model's chat template, or uses it as it is.",
    ] = None
    system: Annotated[
        str | None,
        Setting(panel=_PROMPT),
        "Sets the system message of the conversation, and implies --chat.",
    ] = None

    @property
    def options(self) -> GenerateOptions:
        """What the client is told."""
        return GenerateOptions(
            request_class=self.request_class,
            max_tokens=self.max_tokens,
            min_tokens=self.min_tokens,
            ignore_eos=self.ignore_eos,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            typical_p=self.typical_p,
            seed=self.seed,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            num_choices=self.n,
            best_of=self.best_of,
            show_special_tokens=self.show_special_tokens,
            beam_width=self.beam_width,
            num_returned=self.num_returned,
            length_penalty=self.length_penalty,
            early_stopping=None if self.early_stopping is None else _EARLY_STOPPING[self.early_stopping],
            patience=self.patience,
            bad_words=self.bad_word or (),
            json_schema=None if self.json_schema is None else _content(self.json_schema),
            regex=self.regex,
            choices=self.choice,
            stop=self.stop or (),
            stop_token_ids=self.stop_token_id or (),
            include_stop_string=self.include_stop_string,
            truncate_prompt_tokens=self.truncate_prompt_tokens,
            num_prompt_logprobs=self.prompt_logprobs,
            ttft_ms=self.ttft_ms,
            tpot_ms=self.tpot_ms,
            cache_salt=self.cache_salt,
            session_id=self.session_id,
            expects_tool_call=self.expects_tool_call,
            last_turn=self.last_turn,
            timeout_s=self.timeout_s,
        )


def _content(file: Path) -> str:
    try:
        return read_text(file)
    except FileRefused as refusal:
        raise typer.BadParameter(str(refusal), param_hint="--json-schema") from None


@with_settings
def generate(
    settings: GenerateSettings,
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt. Without it, or with -, standard input is read.")
    ] = None,
    address: Address = address_default,
) -> None:
    """Generates text from one prompt and prints it as it comes. Ctrl-C stops it on the service too."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows "?" for it
    if settings.prompt_logprobs is not None and not settings.as_json:
        raise typer.BadParameter("it is shown in JSON only: add --json", param_hint="--prompt-logprobs")
    with reporting():
        asked = _as_prompt(_read(prompt), settings.chat, settings.system)
    sending = _generate(address, asked, settings.options, as_json=settings.as_json)
    tell = OptionNames(GenerateSettings).told
    run(sending, when_interrupted="interrupted; the request was cancelled", tell=tell)


async def _generate(address: str, prompt: Prompt, options: GenerateOptions, *, as_json: bool) -> None:
    async with connect(address) as client, client.generate(prompt, **options) as stream:
        if as_json:
            typer.echo(_to_json(await stream.collect()))
            return
        if (options.get("num_choices") or 1) > 1:
            _print_choices(await stream.collect())
            return
        await _print(stream)


async def _print(stream: GenerationStream) -> None:
    """Writes the text as it comes, and ends the line even if the stream fails halfway."""
    last = ""
    try:
        async for delta in stream:
            if len(delta.hypotheses) > 1:
                _print_all(delta.hypotheses)
                return
            typer.echo(delta.text, nl=False)
            last = delta.text or last
    finally:
        if last:
            typer.echo()


def _print_all(hypotheses: Sequence[Hypothesis]) -> None:
    """Writes the texts of a beam search, each behind its score."""
    for one in hypotheses:
        typer.echo(f"[{one.score:.3f}] {one.text}")


def _print_choices(result: GenerationResult) -> None:
    """Writes texts, each below its number, which counts from 0 as everywhere else."""
    for index, choice in enumerate(result.choices):
        typer.echo(f"[{index}]\n{choice.text}")


def _read(prompt: str | None) -> str:
    """Returns the prompt, from standard input if the argument says so."""
    if prompt is not None and prompt != "-":
        return prompt
    if sys.stdin.isatty():
        typer.echo("Type the prompt, then Ctrl-D:", err=True)
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"standard input is not UTF-8 text: {error.reason}", param_hint="prompt") from None


def _as_prompt(text: str, chat: bool | None, system: str | None) -> Prompt:
    if system is not None and chat is False:
        raise typer.BadParameter("a system message needs a conversation: leave --no-chat out", param_hint="--system")
    if system is not None:
        return [ChatMessage("system", system), ChatMessage("user", text)]
    return [ChatMessage("user", text)] if chat else text


def _to_json(result: GenerationResult) -> str:
    several = {"choices": [_told(choice) for choice in result.choices]} if result.others else {}
    return json.dumps({"request_id": result.request_id, **_told(result), **several})


def _told(result: GenerationResult) -> dict[str, object]:
    """Returns what is told of one choice."""
    return {
        "text": result.text,
        "token_ids": result.token_ids,
        "finish_reason": result.finish_reason,
        **({"reasoning": result.reasoning} if result.reasoning else {}),
        "ttft_ms": None if result.ttft_s is None else rounded(result.ttft_s * 1e3),
        "e2e_ms": rounded(result.e2e_s * 1e3),
        "usage": rounded_values(asdict(result.usage)),
        **({"prompt_logprobs": of_prompt} if (of_prompt := _prompt_tokens(result)) else {}),
        **({"hypotheses": [asdict(one) for one in result.hypotheses]} if result.hypotheses else {}),
    }


def _prompt_tokens(result: GenerationResult) -> list[object]:
    return [
        {**token._asdict(), "alternatives": [one._asdict() for one in token.alternatives]}
        for token in result.prompt_logprobs
    ]
