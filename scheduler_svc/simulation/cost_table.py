"""How long a simulated model's work takes: times that are linear in the counts which the core's cost model knows too.

The format is that of `qllm-worker --simulated`. Which experts tokens choose is not simulated but expected: a token chooses its
experts evenly, so that an expert runs with the probability that some token chose it.
"""

import json
from dataclasses import dataclass
from importlib.resources import files

from scheduler_svc.core.state.results import WorkerModel, WorkTiming
from scheduler_svc.simulation.errors import JobRefused
from scheduler_svc.simulation.fields import Fields

BLOCK_SIZE = 16
_MOST_US = 1e9
_COUNTS = ("num_layers", "num_experts", "num_experts_per_token", "max_model_len", "num_blocks", "num_host_blocks")
_TIMES = ("attention_us", "expert_us", "head_us")
_NAMES = ("name", "source", *_COUNTS, *_TIMES)


@dataclass(frozen=True, slots=True)
class Load:
    """What one step carries: batches that run jointly, their tokens, query-key pairs and sampled rows."""

    num_passes: int
    num_tokens: int
    num_pairs: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class UnitTimes:
    """Seconds of the units that a load goes through; an expert's are those expected before its routing is known."""

    attention_s: float
    expert_s: float
    head_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTable:
    """A simulated model; times in seconds.

    Attributes:
        attention_s: Seconds of an attention stage: of itself, of each token, of each query-key pair.
        expert_s: Seconds of an expert's run: of itself, of each token.
        head_s: Seconds of an iteration's end: of itself, of each row of logits.
    """

    num_layers: int
    num_experts: int
    num_experts_per_token: int
    max_model_len: int
    num_blocks: int
    num_host_blocks: int
    attention_s: tuple[float, float, float]
    expert_s: tuple[float, float]
    head_s: tuple[float, float]

    @property
    def model(self) -> WorkerModel:
        """The model as the core knows it."""
        return WorkerModel(
            experts_by_layer=(self.num_experts,) * self.num_layers,
            num_experts_per_token=self.num_experts_per_token,
            block_size=BLOCK_SIZE,
            num_blocks=self.num_blocks,
            num_host_blocks=self.num_host_blocks,
            max_model_len=self.max_model_len,
        )

    def unit_times(self, load: Load) -> UnitTimes:
        """Returns how long each unit of a load takes."""
        attention, expert, head = self.attention_s, self.expert_s, self.head_s
        return UnitTimes(
            attention[0] * load.num_passes + attention[1] * load.num_tokens + attention[2] * load.num_pairs,
            expert[0] * self._run_chance(load) + expert[1] * load.num_tokens * self._chosen,
            head[0] * load.num_passes + head[1] * load.num_rows,
        )

    def timing(self, load: Load, num_stages: int, num_experts: int, num_heads: int) -> WorkTiming:
        """Returns what a worker reports of so many stages, experts and heads."""
        times = self.unit_times(load)
        return WorkTiming(
            num_attention_stages=num_stages * load.num_passes,
            attention_tokens=num_stages * load.num_tokens,
            attention_pairs=num_stages * load.num_pairs,
            attention_ns=round(1e9 * num_stages * times.attention_s),
            num_expert_runs=round(num_experts * self._run_chance(load)),
            expert_tokens=round(num_experts * load.num_tokens * self._chosen),
            expert_ns=round(1e9 * num_experts * times.expert_s),
            num_heads=num_heads * load.num_passes,
            head_rows=num_heads * load.num_rows,
            head_ns=round(1e9 * num_heads * times.head_s),
        )

    def calibration(self) -> list[WorkTiming]:
        """Returns what a worker's warm-up reports: whole layers of different sizes."""
        loads = [
            Load(1, 1, 1, 1),
            Load(1, 8, 8, 8),
            Load(1, 64, 4096, 1),
            Load(1, 256, 65536, 1),
            Load(1, 32, 16384, 32),
        ]
        return [self.timing(load, self.num_layers, self.num_layers * self.num_experts, 1) for load in loads]

    @property
    def _chosen(self) -> float:
        return self.num_experts_per_token / self.num_experts

    def _run_chance(self, load: Load) -> float:
        return 1.0 - (1.0 - self._chosen) ** load.num_tokens


def shipped_tables() -> dict[str, object]:
    """Returns the tables that come with the simulator by their names, as parsed JSON."""
    directory = files(__package__) / "cost_tables"
    return {path.name.removesuffix(".json"): json.loads(path.read_text()) for path in directory.iterdir()}


def parse_cost_table(content: object) -> CostTable:
    """Returns the table that a parsed JSON object describes, or the shipped one of that name.

    Raises:
        JobRefused: Something in it is not allowed, or no such table is shipped.
    """
    if isinstance(content, str):
        shipped = shipped_tables()
        if content not in shipped:
            raise JobRefused(f"cost_table: got {content!r}, allowed is an object, or {', '.join(shipped)}")
        content = shipped[content]
    fields = Fields(content, "cost_table", _NAMES)
    num_experts = fields.count("num_experts", 1, 100_000)
    return CostTable(
        num_layers=fields.count("num_layers", 1, 10_000),
        num_experts=num_experts,
        num_experts_per_token=fields.count("num_experts_per_token", 1, num_experts),
        max_model_len=fields.count("max_model_len", 2, 1 << 24),
        num_blocks=fields.count("num_blocks", 1, 1 << 24),
        num_host_blocks=fields.count("num_host_blocks", 0, 1 << 24),
        attention_s=_three(_seconds(fields, "attention_us", ("fixed", "per_token", "per_pair"))),
        expert_s=_two(_seconds(fields, "expert_us", ("fixed", "per_token"))),
        head_s=_two(_seconds(fields, "head_us", ("fixed", "per_row"))),
    )


def _seconds(fields: Fields, name: str, parts: tuple[str, ...]) -> list[float]:
    times = Fields(fields.get(name), f"cost_table.{name}", parts)
    return [times.number(part, 0.0, _MOST_US) * 1e-6 for part in parts]


def _two(values: list[float]) -> tuple[float, float]:
    first, second = values
    return first, second


def _three(values: list[float]) -> tuple[float, float, float]:
    first, second, third = values
    return first, second, third
