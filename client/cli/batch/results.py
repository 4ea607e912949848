"""`qllm-client batch results`: what came out of a job, one line of JSON for each request."""

import json
import sys
from contextlib import ExitStack, aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TextIO

import typer
from qllm.client.batches import BatchResult
from qllm.client.cli.batch.show import BatchId
from qllm.client.cli.numbers import rounded_values
from qllm.client.cli.session import Address, address_default, complain, connect, run

Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Writes to this file, not to standard output.")
]
Follow = Annotated[
    bool,
    typer.Option(
        "--follow",
        help="Waits for all results, in the order of the requests, until the job has ended. Otherwise those are "
        "printed that are there.",
    ),
]
First = Annotated[
    int, typer.Option("--from", min=0, metavar="POSITION", help="Begins with this request; they count from 0.")
]


def results(
    batch_id: BatchId,
    output: Output = None,
    follow: Follow = False,
    first: First = 0,
    address: Address = address_default,
) -> None:
    """Prints the results of a job: one line of JSON for each request that has ended.

    A line has position and custom_id, and either response (text, token_ids, finish_reason, stop_string and usage; of
    a job that was submitted over HTTP, OpenAI's object) or error (code and message); the other one is null.

    [bold]Examples[/bold]

      qllm-client batch results batch_... | jq -r .response.text

      qllm-client batch results batch_... --follow -o answers.jsonl
    """
    with ExitStack() as stack:
        try:
            sink = sys.stdout if output is None else stack.enter_context(output.open("w", encoding="utf-8"))
        except OSError as error:
            raise typer.BadParameter(
                f"got {output}, which cannot be written: {error.strerror}", param_hint="-o"
            ) from None
        reading = _print(address, batch_id, sink, first, follow=follow)
        num_lines = run(reading, when_interrupted=f"the job goes on; see it with: qllm-client batch get {batch_id}")
    if output is not None:
        complain(f"{num_lines} results in {output}")


async def _print(address: str, batch_id: str, sink: TextIO, first: int, *, follow: bool) -> int:
    num_lines = 0
    async with (
        connect(address) as client,
        aclosing(client.batch_results(batch_id, from_position=first, follow=follow)) as found,
    ):
        async for result in found:
            sink.write(result_line(result))
            num_lines += 1
            if follow:
                sink.flush()
    return num_lines


def result_line(result: BatchResult) -> str:
    """Returns a result as one line of JSON, its end included."""
    response = json.loads(result.json) if result.json is not None else None
    if result.answer is not None:
        response = asdict(result.answer)
        for told in (response, *response["hypotheses"]):
            del told["logprobs"]
        del response["top_logprobs"]
        response["usage"] = rounded_values(response["usage"])
        for rare in ("hypotheses", "tool_calls", "reasoning"):
            if not response[rare]:
                del response[rare]
    line = {
        "position": result.position,
        "custom_id": result.custom_id,
        "response": response,
        "error": None if result.error is None else asdict(result.error),
    }
    return json.dumps(line, ensure_ascii=False) + "\n"
