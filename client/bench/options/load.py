"""The options that say who asks, when and how much. Owns their defaults, their help and their checks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from qllm.client.bench.load.prompts import PromptForm, Prompts
from qllm.client.bench.load.run import Plan
from qllm.client.bench.load.trace import Trace, read_trace
from qllm.client.bench.load.workload import BE, LS, ClosedLoop, Lengths, Poisson, Replay, Source, Workload, split
from qllm.client.bench.options.prompt_form import chosen_form
from qllm.client.bench.results.summary import Objective
from qllm.client.messages import RequestClass
from qllm.settings import Setting

_LOAD, _LENGTHS, _MEASURING = "Who asks, and when", "How much is asked", "Measuring"
_DEFAULT_LS_RATE, _DEFAULT_BE_CLIENTS = 0.7, 8


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Who asks, when, and how much."""

    ls_rate: Annotated[
        float | None,
        Setting(0, is_finite=True, metavar="PER_SECOND", panel=_LOAD, unset=f"{_DEFAULT_LS_RATE}"),
        "Sends so many latency-sensitive requests a second, at random times (Poisson). 0 sends none.",
    ] = None
    be_rate: Annotated[
        float | None,
        Setting(0, is_finite=True, metavar="PER_SECOND", panel=_LOAD),
        "Sends so many best-effort requests a second, at random times (Poisson). 0 sends none.",
    ] = None
    ls_clients: Annotated[
        int | None,
        Setting(0, panel=_LOAD),
        "Lets so many clients each send a latency-sensitive request whenever their last one has ended. 0 sends none.",
    ] = None
    be_clients: Annotated[
        int | None,
        Setting(0, panel=_LOAD, unset=f"{_DEFAULT_BE_CLIENTS}"),
        "Lets so many clients each send a best-effort request whenever their last one has ended. 0 sends none.",
    ] = None
    ls_pause: Annotated[
        float,
        Setting(0, metavar="SECONDS", panel=_LOAD),
        "Lets each client of --ls-clients pause so long between an answer and the next request.",
    ] = 0.0
    be_pause: Annotated[
        float,
        Setting(0, metavar="SECONDS", panel=_LOAD),
        "Lets each client of --be-clients pause so long between an answer and the next request.",
    ] = 0.0
    trace: Annotated[
        Path | None,
        Setting(metavar="FILE", panel=_LOAD),
        "Sends the requests of a trace, in both classes: a file with the columns TIMESTAMP, ContextTokens and "
        "GeneratedTokens, which starts over at its end.",
    ] = None
    ls_share: Annotated[
        float,
        Setting(0, 1, panel=_LOAD),
        "Sets which share of the requests of --trace, chosen at random, is latency-sensitive.",
    ] = 0.2
    ls_trace: Annotated[
        Path | None,
        Setting(metavar="FILE", panel=_LOAD),
        "Sends the requests of a trace as latency-sensitive ones.",
    ] = None
    be_trace: Annotated[
        Path | None,
        Setting(metavar="FILE", panel=_LOAD),
        "Sends the requests of a trace as best-effort ones.",
    ] = None
    time_scale: Annotated[
        float,
        Setting(1e-6, is_finite=True, metavar="X", panel=_LOAD),
        "Multiplies the times of traces: with 10 they are ten times as slow.",
    ] = 1.0
    seed: Annotated[
        int,
        Setting(panel=_LOAD),
        "Fixes what is random: the times of requests, the classes of a trace, and prompts. A server over "
        "--http that does not know the field cache_salt may find the prompts of an earlier run in its cache: give it "
        "another seed each time.",
    ] = 0
    ls_prompt_tokens: Annotated[
        int,
        Setting(1, panel=_LENGTHS),
        "Sets how many tokens the prompt of a latency-sensitive request has, unless it comes from a trace.",
    ] = 80
    ls_max_tokens: Annotated[
        int,
        Setting(1, panel=_LENGTHS),
        "Sets how many tokens a latency-sensitive request asks for, unless it comes from a trace.",
    ] = 16
    be_prompt_tokens: Annotated[
        int,
        Setting(1, panel=_LENGTHS),
        "Sets how many tokens the prompt of a best-effort request has, unless it comes from a trace.",
    ] = 1100
    be_max_tokens: Annotated[
        int,
        Setting(1, panel=_LENGTHS),
        "Sets how many tokens a best-effort request asks for, unless it comes from a trace.",
    ] = 64
    prompt_tokens_limit: Annotated[
        int | None,
        Setting(1, panel=_LENGTHS, unset="no limit"),
        "Cuts the prompts of traces at so many tokens.",
    ] = None
    max_tokens_limit: Annotated[
        int | None,
        Setting(1, panel=_LENGTHS, unset="no limit"),
        "Cuts the outputs of traces at so many tokens.",
    ] = None
    prompt_form: Annotated[
        PromptForm | None,
        Setting(panel=_LENGTHS, unset="tokens, with --chat text"),
        "Chooses what prompts are sent as: token ids have exactly the wanted length, text has it nearly.",
    ] = None
    vocab_size: Annotated[
        int | None,
        Setting(1, panel=_LENGTHS, unset="what a gRPC service says"),
        "Keeps the token ids of prompts below this number.",
    ] = None
    seconds: Annotated[
        float,
        Setting(0.1, is_finite=True, metavar="SECONDS", panel=_MEASURING),
        "Sets how long the window is that is measured.",
    ] = 60.0
    warm_up: Annotated[
        float,
        Setting(0, is_finite=True, metavar="SECONDS", panel=_MEASURING),
        "Sets how long the load runs before the window that is measured.",
    ] = 5.0
    drain: Annotated[
        float,
        Setting(0, metavar="SECONDS", panel=_MEASURING),
        "Limits how long the requests of the window have to end after it, while the load goes on.",
    ] = 60.0
    idle_requests: Annotated[
        int,
        Setting(0, panel=_MEASURING),
        "Sends so many requests, one after another, to the idle server before the load begins.",
    ] = 20
    slo_ttft_ms: Annotated[
        float | None,
        Setting(0, panel=_MEASURING, unset="no objective"),
        "Counts a latency-sensitive request as good only if its first token comes within so many milliseconds.",
    ] = None
    slo_tpot_ms: Annotated[
        float | None,
        Setting(0, panel=_MEASURING, unset="no objective"),
        "Counts a latency-sensitive request as good only if its further tokens take so "
        "many milliseconds each on average.",
    ] = None
    be_slo_ttft_ms: Annotated[
        float | None,
        Setting(0, panel=_MEASURING, unset="no objective"),
        "Counts a best-effort request as good only if its first token comes within so many milliseconds.",
    ] = None
    be_slo_tpot_ms: Annotated[
        float | None,
        Setting(0, panel=_MEASURING, unset="no objective"),
        "Counts a best-effort request as good only if its further tokens take so many milliseconds each on average.",
    ] = None
    max_in_flight: Annotated[
        int,
        Setting(1, panel=_MEASURING),
        "Limits how many requests are under way at a time. Further ones are not sent, and count as failed.",
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
        form = chosen_form(self.prompt_form, chat=chat)
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
