"""`qllm-client generate`: one prompt in, its text as it comes, or one line of JSON."""

import io
import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from client.async_client import AsyncClient
from client.cli.session import Address, address_default, run
from client.messages import ChatMessage, GenerateOptions, GenerationResult, Prompt, RequestClass
from client.stream import GenerationStream

PromptArgument = Annotated[str | None, typer.Argument(help="The prompt; - or nothing reads standard input.")]
ClassOption = Annotated[
    RequestClass, typer.Option("--class", help="ls: someone is waiting for the answer. be: work that can wait.")
]
MaxTokens = Annotated[int | None, typer.Option(help="Most tokens to generate.")]
MinTokens = Annotated[int | None, typer.Option(help="Tokens before which nothing but --max-tokens ends the text.")]
IgnoreEos = Annotated[bool, typer.Option("--ignore-eos", help="Go on past the end-of-sequence token.")]
Temperature = Annotated[float | None, typer.Option(help="0 always takes the most probable token.")]
TopK = Annotated[int | None, typer.Option(help="Choose among the k most probable tokens; 0: among all.")]
TopP = Annotated[float | None, typer.Option(help="Choose among the fewest tokens that reach this probability.")]
MinP = Annotated[float | None, typer.Option(help="Choose among tokens this fraction as probable as the first one.")]
Seed = Annotated[int | None, typer.Option(help="Makes the choices repeatable.")]
Stop = Annotated[list[str] | None, typer.Option(help="A string that ends the text; may be repeated.")]
StopTokenId = Annotated[list[int] | None, typer.Option(help="A token id that ends the text; may be repeated.")]
Chat = Annotated[
    bool | None,
    typer.Option("--chat/--no-chat", help="Put the prompt through the model's chat template, or use it as it is."),
]
System = Annotated[str | None, typer.Option(help="System message of the conversation; implies --chat.")]
Timeout = Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="Give up after so long.")]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON at the end, and nothing else.")]

EXAMPLES = """
[bold]Examples[/bold]

  qllm-client generate --max-tokens 64 "def fibonacci(n):"

  qllm-client generate --chat --system "Be brief." "What does zip do?"

  cat report.txt | qllm-client generate --class be --temperature 0 --json > answer.json
"""


def generate(
    prompt: PromptArgument = None,
    request_class: ClassOption = RequestClass.LATENCY_SENSITIVE,
    max_tokens: MaxTokens = None,
    min_tokens: MinTokens = None,
    ignore_eos: IgnoreEos = False,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    seed: Seed = None,
    stop: Stop = None,
    stop_token_id: StopTokenId = None,
    chat: Chat = None,
    system: System = None,
    timeout: Timeout = None,
    as_json: Json = False,
    address: Address = address_default,
) -> None:
    """Generates text from one prompt and prints it as it comes. Ctrl-C stops it on the service too."""
    options = GenerateOptions(
        request_class=request_class,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        ignore_eos=ignore_eos,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        stop=stop or (),
        stop_token_ids=stop_token_id or (),
        timeout_s=timeout,
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows "?" for it
    sending = _generate(address, _as_prompt(_read(prompt), chat, system), options, as_json=as_json)
    run(sending, when_interrupted="interrupted; the request was cancelled")


async def _generate(address: str, prompt: Prompt, options: GenerateOptions, *, as_json: bool) -> None:
    async with AsyncClient(address) as client, client.generate(prompt, **options) as stream:
        if as_json:
            typer.echo(_to_json(await stream.collect()))
            return
        await _print(stream)


async def _print(stream: GenerationStream) -> None:
    """Writes the text as it comes, and ends the line even if the stream fails halfway."""
    last = ""
    try:
        async for delta in stream:
            typer.echo(delta.text, nl=False)
            last = delta.text or last
    finally:
        if last:
            typer.echo()


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
    return json.dumps(
        {
            "request_id": result.request_id,
            "text": result.text,
            "token_ids": result.token_ids,
            "finish_reason": result.finish_reason,
            "ttft_ms": None if result.ttft_s is None else round(result.ttft_s * 1e3, 3),
            "e2e_ms": round(result.e2e_s * 1e3, 3),
            "usage": asdict(result.usage),
        }
    )
