"""`qllm-client bench simulate-agents`: what programs with tools gain if caches are kept between turns, simulated."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from qllm.client.bench.commands.measure import provenance_of
from qllm.client.bench.commands.simulate_options import A100, read_cost_table
from qllm.client.bench.console import complaining
from qllm.client.bench.errors import BenchError
from qllm.client.bench.load.memory.programs import Tool
from qllm.client.bench.report.agent_tables import agents_grid
from qllm.client.bench.results.result_file import dump
from qllm.client.bench.service.interrupts import Interrupts, run_interruptibly
from qllm.client.bench.simulation.agents import AgentResult, AgentTraffic, lifetimes, was_short
from qllm.client.bench.simulation.simulator import run_jobs
from qllm.client.bench.simulation.sweep import parse_values
from qllm.client.messages import RequestClass
from qllm.options import with_settings
from qllm.settings import Setting
from rich.console import Console

SCHEMA = "qllm-bench-simulated-agents/2"
EXAMPLES = """
[bold]Examples[/bold]

  qllm-client bench simulate-agents --rate 0.05 --seconds 3600 --num-blocks 4000

  qllm-client bench simulate-agents --tool read=0.5:0.5 --tool tests=10:1.5 --turn-spread geometric --ttl 0,5,60
"""
_DEFAULT_TOOLS = ("read=0.5:0.5", "search=1.2:1", "tests=9:1")
_AGENTS, _COMPARED = "Agents", "What is compared"


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """Who asks."""

    rate: Annotated[
        float, Setting(1e-4, 1000, panel=_AGENTS), "Sets how many programs come in a second, at random times (Poisson)."
    ] = 0.03
    seconds: Annotated[
        float, Setting(1, 1e6, panel=_AGENTS), "Sets for how many seconds programs come. All are served to the end."
    ] = 3600.0
    turns: Annotated[
        int, Setting(1, 1000, panel=_AGENTS), "Sets how many turns a program has, or their mean with --turn-spread."
    ] = 8
    turn_spread: Annotated[
        str,
        Setting(choices=("fixed", "geometric"), panel=_AGENTS),
        "Chooses whether all programs have --turns turns, or each ends after any turn by one chance.",
    ] = "fixed"
    first_tokens: Annotated[
        int, Setting(1, 1 << 20, panel=_AGENTS), "Sets how many tokens the prompt of a program's first turn has."
    ] = 2000
    tool_tokens: Annotated[
        int, Setting(1, 1 << 20, panel=_AGENTS), "Sets how many tokens each tool's result adds to the next prompt."
    ] = 300
    output_tokens: Annotated[
        int, Setting(1, 1 << 20, panel=_AGENTS), "Sets how many tokens each turn's answer has."
    ] = 100
    tool: Annotated[
        list[str] | None,
        Setting(metavar="NAME=MEDIAN_S:SIGMA", panel=_AGENTS, unset=", ".join(_DEFAULT_TOOLS)),
        "Adds a tool. Its calls take log-normal times: half of them at most so many seconds, and the logarithm has "
        "this standard deviation. One of the tools runs after each turn but the last. It may be given several times.",
    ] = None
    request_class: Annotated[
        RequestClass,
        Setting(panel=_AGENTS),
        "Chooses the class of all turns: ls, latency-sensitive, or be, best-effort.",
    ] = RequestClass.BEST_EFFORT
    seed: Annotated[int, Setting(0, 1e9, panel=_AGENTS), "Fixes the random times, tools and numbers of turns."] = 0

    def traffic(self, number: int = 0) -> AgentTraffic:
        """Returns the traffic of a later seed by so many; raises BenchError for a tool that cannot be read."""
        return AgentTraffic(
            rate_per_s=self.rate,
            seconds=self.seconds,
            num_turns=self.turns,
            turn_spread=self.turn_spread,
            num_prompt_tokens=self.first_tokens,
            num_tool_tokens=self.tool_tokens,
            num_output_tokens=self.output_tokens,
            tools=tuple(map(Tool.parse, self.tool or _DEFAULT_TOOLS)),
            is_latency_sensitive=self.request_class is RequestClass.LATENCY_SENSITIVE,
            seed=self.seed + number,
        )


@dataclass(frozen=True, slots=True)
class LifetimeOptions:
    """What is compared, on what."""

    ttl: Annotated[
        str,
        Setting(metavar="A,B,...", panel=_COMPARED),
        "Lists fixed values of the scheduler's --session-ttl-s, in seconds, that the rule is compared with. With 0, "
        "which is always among them, nothing is kept.",
    ] = "0,2,20"
    policy: Annotated[str, Setting(panel=_COMPARED), "Chooses the scheduler's policy."] = "qllm"
    cost_table: Annotated[
        str,
        Setting(metavar="NAME|FILE", panel=_COMPARED),
        "Names the table that says how long the worker's work takes: a JSON file, or one that comes with QLLM.",
    ] = A100
    num_blocks: Annotated[
        int,
        Setting(1, 1 << 24, panel=_COMPARED),
        "Sets how many cache blocks of 16 tokens the device has, whatever the table says: with few of them, what "
        "programs keep presses on memory.",
    ] = 2500
    num_host_blocks: Annotated[
        int | None,
        Setting(0, 1 << 24, panel=_COMPARED, unset="as many as the table says"),
        "Sets how many cache blocks there are in host memory, to which caches move that give way. A move takes as long "
        "as the table says, or no time if it does not say.",
    ] = None
    seeds: Annotated[
        int, Setting(1, 1000, panel=_COMPARED), "Simulates with so many seeds, from --seed on, for standard errors."
    ] = 3
    processes: Annotated[int, Setting(1, 256, panel=_COMPARED), "Runs so many simulations at a time."] = (
        os.cpu_count() or 1
    )
    json_file: Annotated[
        Path | None, Setting(option="json", metavar="FILE", panel=_COMPARED), "Writes all results as JSON."
    ] = None

    def jobs(self, traffic: AgentTraffic) -> dict[str, dict[str, object]]:
        """Returns the simulator's jobs by what each is called; raises BenchError for what cannot be read."""
        fixed = parse_values(self.ttl, "--ttl")
        common: dict[str, object] = {
            "cost_table": read_cost_table(self.cost_table),
            "policy": self.policy,
            "requests": [],
            "agents": traffic.job(),
            "num_blocks": self.num_blocks,
            **({} if self.num_host_blocks is None else {"num_host_blocks": self.num_host_blocks}),
        }
        settings = lifetimes((0.0, *(each for each in fixed if each)))
        return {label: {**common, "settings": each} for label, each in settings.items()}


@with_settings
def simulate_agents(agents: AgentOptions, compared: LifetimeOptions) -> None:
    """Simulates programs that ask, let a tool run, and ask again with all that was said before.

    Each time to live meets the same programs: fixed times for which a program's cache is kept after a turn, and the
    time that the rule of arXiv 2511.02230 chooses by how long each tool took before. Printed are how long turns waited
    for their first token, and how long programs took in all, as means over --seeds with their standard errors.
    With the defaults that takes about 2 minutes of processor time.
    """
    with complaining():
        by_seed = [compared.jobs(agents.traffic(number)) for number in range(compared.seeds)]
        labels, jobs = list(by_seed[0]), [job for of_seed in by_seed for job in of_seed.values()]

        async def command(_: Interrupts) -> dict[str, list[AgentResult]]:
            found = await run_jobs(jobs, num_processes=compared.processes, on_done=lambda: None)
            each = [AgentResult.read(content) for content in found]
            return {label: each[at :: len(labels)] for at, label in enumerate(labels)}

        results, _ = run_interruptibly(command)
        typer.echo(f"SIMULATED on {Path(compared.cost_table).stem}: {agents.traffic().describe()}")
        console = Console()
        if not console.is_terminal:
            console.width = 130
        console.print(agents_grid(results).to_table())
        if not was_short(results):
            typer.echo("Memory was never short, so that keeping caches could gain nothing: lower --num-blocks.")
        if compared.json_file is not None:
            _write(compared.json_file, agents, compared, results)


def _write(
    path: Path, agents: AgentOptions, compared: LifetimeOptions, results: Mapping[str, Sequence[AgentResult]]
) -> None:
    provenance = provenance_of(asdict(agents) | asdict(compared))
    content = {
        "schema": SCHEMA,
        "is_simulated": True,
        "provenance": asdict(provenance),
        "results": {label: [asdict(one) for one in of_time] for label, of_time in results.items()},
    }
    try:
        path.write_text(dump(content))
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from None
