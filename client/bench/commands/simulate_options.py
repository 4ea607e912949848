"""The options of `qllm-client bench simulate`: who asks, what is compared, and on which machines."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from qllm.client.bench.errors import BenchError
from qllm.client.bench.load.trace import read_trace
from qllm.client.bench.results.summary import Objective
from qllm.client.bench.simulation.sweep import Axis, Point, apply_settings, choose_set_ups, parse_values, points
from qllm.client.bench.simulation.traffic import Mix, MixedLoad, ReplayedTrace, Traffic
from qllm.client.files import FileRefused, read_text
from qllm.settings import Setting

A100 = "a100-mixtral-8x7b"
_TRAFFIC, _CLIENTS, _SET_UPS = "Traffic", "Traffic of clients that never pause", "What is compared"


@dataclass(frozen=True, slots=True)
class TrafficOptions:
    """Who asks, and when."""

    rate: Annotated[
        float,
        Setting(0.001, 10_000, panel=_TRAFFIC),
        "Sets how many requests of both classes arrive in a second.",
    ] = 4.0
    seconds: Annotated[
        float,
        Setting(1, 1e6, panel=_TRAFFIC),
        "Sets for how many seconds requests arrive. All of them are served to the end, but those of --be-clients.",
    ] = 120.0
    ls_share: Annotated[
        float,
        Setting(0, 1, panel=_TRAFFIC),
        "Sets which share of the requests is latency-sensitive.",
    ] = 0.2
    max_output_tokens: Annotated[
        int,
        Setting(4, 8192, panel=_TRAFFIC),
        "Cuts outputs at so many tokens.",
    ] = 100
    seed: Annotated[
        int,
        Setting(panel=_TRAFFIC),
        "Fixes the random times of arrivals, classes and lengths.",
    ] = 0
    trace: Annotated[
        Path | None,
        Setting(metavar="FILE", panel=_TRAFFIC),
        "Takes the requests from a file with the columns TIMESTAMP, ContextTokens and "
        "GeneratedTokens, instead of --rate.",
    ] = None
    time_scale: Annotated[
        float,
        Setting(1e-3, 1e3, panel=_TRAFFIC),
        "Multiplies the times of the trace.",
    ] = 1.0

    def traffic(self, clients: "ClientOptions") -> Traffic:
        """Returns the traffic.

        Raises:
            BadTrace: The trace cannot be read.
            BenchError: A trace and clients are both given.
        """
        if clients.be_clients is not None:
            if self.trace is not None:
                raise BenchError("--be-clients: allowed without --trace only")
            return clients.mixed_load(clients.be_clients, self.seconds, self.seed)
        if self.trace is not None:
            return ReplayedTrace(read_trace(self.trace), self.trace.name, self.time_scale, self.ls_share, self.seed)
        return Mix(
            rate_per_s=self.rate,
            seconds=self.seconds,
            ls_share=self.ls_share,
            max_output_tokens=self.max_output_tokens,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """The mixed load, as `qllm-client bench` measures it: these options are named there too."""

    be_clients: Annotated[
        int | None,
        Setting(0, 4096, panel=_CLIENTS, unset="no clients, but the traffic above"),
        "Lets so many clients each send a best-effort request whenever their last one has ended, beside "
        "latency-sensitive requests at --ls-rate. Throughput is counted for --seconds after --warm-up.",
    ] = None
    be_prompt_tokens: Annotated[
        int,
        Setting(1, 8192, panel=_CLIENTS),
        "Sets how many tokens their prompts have on average. Each is up to 20 % shorter or longer.",
    ] = 1100
    be_max_tokens: Annotated[
        int,
        Setting(1, 8192, panel=_CLIENTS),
        "Sets how many tokens a best-effort request asks for.",
    ] = 64
    ls_rate: Annotated[
        float,
        Setting(0.001, 10_000, panel=_CLIENTS),
        "Sends so many latency-sensitive requests a second, at random times (Poisson).",
    ] = 0.7
    ls_prompt_tokens: Annotated[
        int,
        Setting(1, 8192, panel=_CLIENTS),
        "Sets how many tokens the prompt of a latency-sensitive request has.",
    ] = 80
    ls_max_tokens: Annotated[
        int,
        Setting(1, 8192, panel=_CLIENTS),
        "Sets how many tokens a latency-sensitive request asks for.",
    ] = 16
    warm_up: Annotated[
        float,
        Setting(0, 1e6, panel=_CLIENTS),
        "Sets for how many seconds the load runs before throughput is counted.",
    ] = 5.0

    def mixed_load(self, num_clients: int, seconds: float, seed: int) -> MixedLoad:
        """Returns the load of so many clients."""
        return MixedLoad(
            num_be_clients=num_clients,
            be_prompt_tokens=self.be_prompt_tokens,
            be_output_tokens=self.be_max_tokens,
            ls_rate_per_s=self.ls_rate,
            ls_prompt_tokens=self.ls_prompt_tokens,
            ls_output_tokens=self.ls_max_tokens,
            warm_up_s=self.warm_up,
            seconds=seconds,
            seed=seed,
        )


@dataclass(frozen=True, slots=True)
class ExperimentOptions:
    """What is compared, on what."""

    sweep: Annotated[
        Axis | None,
        Setting(panel=_SET_UPS, unset="the rate, or nothing on a trace or with clients"),
        "Chooses what is varied from one simulation to the next. ls-tpot varies --ls-tpot-ms of the scheduler, and its "
        "figure shows what best-effort work gains by what latency-sensitive requests give.",
    ] = None
    values: Annotated[
        str | None,
        Setting(metavar="A,B,...", panel=_SET_UPS, unset="some that fit what is varied"),
        "Lists the values that --sweep takes.",
    ] = None
    set_up: Annotated[
        list[str] | None,
        Setting(panel=_SET_UPS, unset="all"),
        "Chooses a set-up to compare: fcfs, paper, priority-iteration, qllm-layer, qllm-expert, or qllm-alone, which "
        "is qllm-expert with --ls-tpot-ms 0. It may be given several times; fcfs is always among them.",
    ] = None
    set: Annotated[
        list[str] | None,
        Setting(metavar="NAME=NUMBER", panel=_SET_UPS),
        "Sets a number of the scheduler's core in all set-ups, under its name in the code, with times in seconds: "
        "be_chunk_tokens=512, min_share=0.1 for --be-min-share, preemption_quantum_s=0.01 for --preemption-quantum-ms "
        "10. A name that is unknown is answered with all names. It may be given several times.",
    ] = None
    cost_table: Annotated[
        list[str] | None,
        Setting(metavar="NAME|FILE", panel=_SET_UPS, unset=A100),
        "Names the table that says how long the worker's work takes: a JSON file, or one that comes with QLLM, which "
        "are a100-mixtral-8x7b, h200-mixtral-8x7b, zen3-mini-mixtral, zen4-mini-mixtral, zen5-mini-mixtral and zero "
        "(no time at all). "
        "With --sweep ls-tpot it may be given several times, and the figure compares the machines.",
    ] = None
    slo_s: Annotated[
        float,
        Setting(0.001, panel=_SET_UPS),
        "Sets within how many seconds the first token of a latency-sensitive request should come.",
    ] = 3.0
    slo_tpot_ms: Annotated[
        float,
        Setting(0.001, panel=_SET_UPS),
        "Sets within how many milliseconds each further token of a latency-sensitive request should come, on average. "
        "With --sweep ls-tpot it is what is varied.",
    ] = 50.0
    processes: Annotated[
        int,
        Setting(1, 256, panel=_SET_UPS),
        "Runs so many simulations at a time.",
    ] = os.cpu_count() or 1

    def axis(self, traffic: Traffic) -> Axis | None:
        """Returns what is varied."""
        return self.sweep or (Axis.RATE if isinstance(traffic, Mix) else None)

    def points(self, traffic: Traffic) -> list[Point]:
        """Returns what to simulate; raises BenchError for what cannot be."""
        axis = self.axis(traffic)
        if axis is None and self.values is not None:
            raise BenchError("--values: allowed with --sweep only")
        values = parse_values(self.values) if self.values is not None else axis.values if axis else ()
        return points(axis, values, traffic, apply_settings(choose_set_ups(self.set_up or ()), self.set or ()))

    @property
    def objective(self) -> Objective:
        """What latency-sensitive requests should keep."""
        return Objective(self.slo_s * 1e3, self.slo_tpot_ms)

    def objective_at(self, point: Point) -> Objective:
        """Returns the objective at one point; where the promise is varied, that is the promise."""
        return replace(self.objective, tpot_ms=point.value) if self.sweep is Axis.LS_TPOT else self.objective

    def cost_tables(self) -> dict[str, object]:
        """Returns the tables by their names: a file's content, or the name, which the simulator knows or refuses.

        Raises:
            BenchError: A file cannot be read, or there are several tables where one is allowed.
        """
        names = self.cost_table or [A100]
        if len(names) > 1 and self.sweep is not Axis.LS_TPOT:
            raise BenchError(f"--cost-table: got {len(names)}, allowed is one, and several with --sweep ls-tpot")
        tables = {Path(name).stem: read_cost_table(name) for name in names}
        if len(tables) < len(names):
            raise BenchError(f"--cost-table: got {', '.join(names)}, allowed are tables of different names")
        return tables


def read_cost_table(name: str) -> object:
    """Returns a file's content, or the name, which the simulator knows or refuses; raises BenchError for a bad file."""
    path = Path(name)
    if not path.is_file():
        return name
    try:
        return json.loads(read_text(path))
    except FileRefused as refusal:
        raise BenchError(f"--cost-table: {refusal}") from None
    except ValueError as error:
        raise BenchError(f"--cost-table: {path}: it is no JSON: {error}") from None
