"""What the steps of a simulated model take, by its cost table.

Which experts tokens choose is not simulated but expected: a token chooses its experts evenly, so that an expert runs
with the probability that some token chose it.
"""

from dataclasses import dataclass

from qllm.cost_table import CostTable

from scheduler_svc.core.state.batch import Shape
from scheduler_svc.core.state.results import WorkerModel, WorkTiming

BLOCK_SIZE = 16
_CALIBRATION = (
    Shape(num_tokens=1, num_pairs=1, num_rows=1),
    Shape(num_tokens=8, num_pairs=8, num_rows=8),
    Shape(num_tokens=64, num_pairs=4096, num_rows=1),
    Shape(num_tokens=256, num_pairs=65536, num_rows=1),
    Shape(num_tokens=32, num_pairs=16384, num_rows=32),
)


@dataclass(frozen=True, slots=True)
class UnitTimes:
    """Seconds of the units that a step goes through; an expert's are those expected before its routing is known."""

    attention_s: float
    expert_s: float
    head_s: float


class StepCosts:
    """The times of one table, in seconds.

    Attributes:
        num_layers: Decoder layers, all alike.
        num_experts: Experts of each layer.
        model: The model as the core knows it.
    """

    def __init__(self, table: CostTable) -> None:
        self.num_layers, self.num_experts = table.num_layers, table.num_experts
        self.model = WorkerModel(
            experts_by_layer=(table.num_experts,) * table.num_layers,
            num_experts_per_token=table.num_experts_per_token,
            block_size=BLOCK_SIZE,
            num_blocks=table.num_blocks,
            num_host_blocks=table.num_host_blocks,
            max_model_len=table.max_model_len,
            block_bytes=table.moving.block_bytes if table.moving else 0,
            host_block_bytes=table.moving.block_bytes if table.moving else 0,
        )
        self._table = table
        self._attention_s = tuple(each * 1e-6 for each in table.attention_us)
        self._expert_s = tuple(each * 1e-6 for each in table.expert_us)
        self._head_s = tuple(each * 1e-6 for each in table.head_us)
        self._chosen = table.num_experts_per_token / table.num_experts

    def unit_times(self, shape: Shape) -> UnitTimes:
        """Returns how long each unit takes of batches whose shapes sum to `shape`, and which run jointly."""
        attention, expert, head = self._attention_s, self._expert_s, self._head_s
        return UnitTimes(
            attention[0] * shape.num_passes + attention[1] * shape.num_tokens + attention[2] * shape.num_pairs,
            expert[0] * self._run_chance(shape) + expert[1] * shape.num_tokens * self._chosen,
            head[0] * shape.num_passes + head[1] * shape.num_rows,
        )

    def timing(self, shape: Shape, num_stages: int, num_experts: int, num_heads: int) -> WorkTiming:
        """Returns what a worker reports of so many stages, experts and heads."""
        times = self.unit_times(shape)
        return WorkTiming(
            num_attention_stages=num_stages * shape.num_passes,
            attention_tokens=num_stages * shape.num_tokens,
            attention_pairs=num_stages * shape.num_pairs,
            attention_ns=round(1e9 * num_stages * times.attention_s),
            num_expert_runs=round(num_experts * self._run_chance(shape)),
            expert_tokens=round(num_experts * shape.num_tokens * self._chosen),
            expert_ns=round(1e9 * num_experts * times.expert_s),
            num_heads=num_heads * shape.num_passes,
            head_rows=num_heads * shape.num_rows,
            head_ns=round(1e9 * num_heads * times.head_s),
        )

    def offload_s(self, num_blocks: int) -> float:
        """Returns how long so many blocks take on their way off the device."""
        return self._table.offload_ns(num_blocks) * 1e-9

    def restore_s(self, num_blocks: int) -> float:
        """Returns how long so many blocks take on their way back."""
        return self._table.restore_ns(num_blocks) * 1e-9

    def calibration(self) -> list[WorkTiming]:
        """Returns what a worker's warm-up reports: whole layers of different sizes."""
        return [self.timing(shape, self.num_layers, self.num_layers * self.num_experts, 1) for shape in _CALIBRATION]

    def _run_chance(self, shape: Shape) -> float:
        return 1.0 - (1.0 - self._chosen) ** shape.num_tokens
