"""The options that say who asks, when and how much. Owns their defaults, their help and their checks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from client.bench.load.prompts import PromptForm, Prompts
from client.bench.load.run import Plan
from client.bench.load.trace import Trace, read_trace
from client.bench.load.workload import BE, LS, ClosedLoop, Lengths, Poisson, Replay, Source, Workload, split
from client.bench.results.summary import Objective
from client.messages import RequestClass

_LOAD, _LENGTHS, _MEASURING = "Who asks, and when", "How much is asked", "Measuring"
_DEFAULT_LS_RATE, _DEFAULT_BE_CLIENTS = 0.7, 8


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Who asks, when, and how much."""

    ls_rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="PER_SECOND",
            rich_help_panel=_LOAD,
            help=f"Latency-sensitive requests at random times (Poisson); 0: none. {_DEFAULT_LS_RATE} if nothing is said.",
        ),
    ] = None
    be_rate: Annotated[
        float | None,
        typer.Option(min=0, metavar="PER_SECOND", rich_help_panel=_LOAD, help="Best-effort requests likewise."),
    ] = None
    ls_clients: Annotated[
        int | None,
        typer.Option(
            min=0, rich_help_panel=_LOAD, help="Latency-sensitive clients who each ask after their last answer."
        ),
    ] = None
    be_clients: Annotated[
        int | None,
        typer.Option(
            min=0,
            rich_help_panel=_LOAD,
            help=f"Best-effort clients likewise; 0: none. {_DEFAULT_BE_CLIENTS} if nothing is said.",
        ),
    ] = None
    ls_pause: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", rich_help_panel=_LOAD, help="Pause of a client after an answer.")
    ] = 0.0
    be_pause: Annotated[float, typer.Option(min=0, metavar="SECONDS", rich_help_panel=_LOAD, help="Likewise.")] = 0.0
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_LOAD,
            help="Requests of both classes from a file with TIMESTAMP, ContextTokens, GeneratedTokens; starts over at its end.",
        ),
    ] = None
    ls_share: Annotated[
        float, typer.Option(min=0, max=1, rich_help_panel=_LOAD, help="Share of --trace that is latency-sensitive.")
    ] = 0.2
    ls_trace: Annotated[
        Path | None, typer.Option(metavar="FILE", rich_help_panel=_LOAD, help="Latency-sensitive requests from a file.")
    ] = None
    be_trace: Annotated[
        Path | None, typer.Option(metavar="FILE", rich_help_panel=_LOAD, help="Best-effort requests from a file.")
    ] = None
    time_scale: Annotated[
        float,
        typer.Option(
            min=1e-6, metavar="X", rich_help_panel=_LOAD, help="Multiplies the times of traces: 10 is ten times slower."
        ),
    ] = 1.0
    ls_prompt_tokens: Annotated[int, typer.Option(min=1, rich_help_panel=_LENGTHS)] = 80
    ls_max_tokens: Annotated[int, typer.Option(min=1, rich_help_panel=_LENGTHS)] = 16
    be_prompt_tokens: Annotated[int, typer.Option(min=1, rich_help_panel=_LENGTHS)] = 1100
    be_max_tokens: Annotated[int, typer.Option(min=1, rich_help_panel=_LENGTHS)] = 64
    prompt_tokens_limit: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=_LENGTHS, help="Cuts longer prompts of traces.")
    ] = None
    max_tokens_limit: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=_LENGTHS, help="Cuts longer outputs of traces.")
    ] = None
    prompt_form: Annotated[
        PromptForm | None,
        typer.Option(
            rich_help_panel=_LENGTHS,
            help="Token ids have exactly the wanted length; text has it nearly. Token ids unless --chat.",
        ),
    ] = None
    vocab_size: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel=_LENGTHS, help="Token ids are below it; a gRPC service tells it by itself."
        ),
    ] = None
    seed: Annotated[int, typer.Option(rich_help_panel=_LOAD, help="Fixes times, shares and prompts.")] = 0
    seconds: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", rich_help_panel=_MEASURING, help="Length of the measuring window."),
    ] = 60.0
    warm_up: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", rich_help_panel=_MEASURING, help="Load before the window.")
    ] = 5.0
    drain: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            rich_help_panel=_MEASURING,
            help="Longest wait for the window's requests to end, the load going on.",
        ),
    ] = 60.0
    idle_requests: Annotated[
        int, typer.Option(min=0, rich_help_panel=_MEASURING, help="Requests one by one on the idle server, before.")
    ] = 20
    slo_ttft_ms: Annotated[
        float | None,
        typer.Option(
            min=0, rich_help_panel=_MEASURING, help="A latency-sensitive request is good if it begins within."
        ),
    ] = None
    slo_tpot_ms: Annotated[
        float | None,
        typer.Option(min=0, rich_help_panel=_MEASURING, help="... and its mean time per further token is within."),
    ] = None
    be_slo_ttft_ms: Annotated[
        float | None, typer.Option(min=0, rich_help_panel=_MEASURING, help="The same for a best-effort request.")
    ] = None
    be_slo_tpot_ms: Annotated[
        float | None, typer.Option(min=0, rich_help_panel=_MEASURING, help="The same for a best-effort request.")
    ] = None
    max_in_flight: Annotated[
        int,
        typer.Option(
            min=1,
            rich_help_panel=_MEASURING,
            help="Requests beyond so many at a time are not sent, and count as failed.",
        ),
    ] = 4096

    @property
    def objectives(self) -> dict[RequestClass, Objective]:
        """What a good request of each class keeps."""
        return {
            LS: Objective(self.slo_ttft_ms, self.slo_tpot_ms),
            BE: Objective(self.be_slo_ttft_ms, self.be_slo_tpot_ms),
        }

    def plan(self, *, chat: bool = False) -> Plan:
        """Returns what a run does.

        Raises:
            typer.BadParameter: Options contradict each other.
            BadTrace: A trace cannot be read.
        """
        form = self.prompt_form or (PromptForm.TEXT if chat else PromptForm.TOKENS)
        if chat and form is PromptForm.TOKENS:
            raise typer.BadParameter("a conversation has no token ids: give text", param_hint="--prompt-form")
        return Plan(
            workload=self._workload(),
            prompts=Prompts(form, vocab_size=0, seed=self.seed),
            vocab_size=self.vocab_size,
            num_idle=self.idle_requests,
            warm_up_s=self.warm_up,
            seconds=self.seconds,
            drain_s=self.drain,
            max_in_flight=self.max_in_flight,
        )

    def _workload(self) -> Workload:
        own = (self.ls_rate, self.ls_clients, self.ls_trace, self.be_rate, self.be_clients, self.be_trace)
        if self.trace is not None:
            if any(option is not None for option in own):
                raise typer.BadParameter(
                    "it holds both classes; leave the --ls- and --be- rates, clients and traces out",
                    param_hint="--trace",
                )
            parts = split(read_trace(self.trace), self.ls_share, self.seed)
            sources: Mapping[RequestClass, Source | None] = {
                name: self._replay(part) for name, part in parts.items() if part.rows
            }
        else:
            sources = {LS: self._ls_source(), BE: self._be_source()}
        workload: Workload = {name: source for name, source in sources.items() if source is not None}
        if not workload:
            raise typer.BadParameter("nobody asks: give a rate, clients or a trace", param_hint="--ls-rate")
        return workload

    def _ls_source(self) -> Source | None:
        _check_one("ls", rate=self.ls_rate, clients=self.ls_clients, trace=self.ls_trace)
        if self.ls_trace is not None:
            return self._replay(read_trace(self.ls_trace))
        lengths = Lengths(self.ls_prompt_tokens, self.ls_max_tokens)
        if self.ls_clients is not None:
            return ClosedLoop(self.ls_clients, self.ls_pause, lengths) if self.ls_clients else None
        rate = _DEFAULT_LS_RATE if self.ls_rate is None else self.ls_rate
        return Poisson(rate, lengths, f"ls {self.seed}") if rate else None

    def _be_source(self) -> Source | None:
        _check_one("be", rate=self.be_rate, clients=self.be_clients, trace=self.be_trace)
        if self.be_trace is not None:
            return self._replay(read_trace(self.be_trace))
        lengths = Lengths(self.be_prompt_tokens, self.be_max_tokens)
        if self.be_rate is not None:
            return Poisson(self.be_rate, lengths, f"be {self.seed}") if self.be_rate else None
        num_clients = _DEFAULT_BE_CLIENTS if self.be_clients is None else self.be_clients
        return ClosedLoop(num_clients, self.be_pause, lengths) if num_clients else None

    def _replay(self, trace: Trace) -> Replay:
        return Replay(trace, self.time_scale, self.prompt_tokens_limit, self.max_tokens_limit)


def _check_one(request_class: str, **sources: float | Path | None) -> None:
    given = [f"--{request_class}-{name}" for name, value in sources.items() if value is not None]
    if len(given) > 1:
        raise typer.BadParameter("a class has one source of requests", param_hint=" and ".join(given))
