"""How a worker introduces itself: its model in numbers, and how fast that is. Mirrors Hello of control.proto."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpu_worker.contract.results import WorkTiming


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """How a model's makers sample from it; None where they don't say.

    Attributes:
        temperature: Divides the logits; 0 is greedy.
        top_k: Tokens kept; 0 keeps all.
        top_p: Probability kept.
        min_p: Least part of the best token's probability.
        repetition_penalty: Divides the logits of tokens that prompt or output have.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerModel:
    """What is served.

    Attributes:
        name: Name that it is served under.
        other_names: Further names that requests may give.
        family: Transformers' model type, such as "mixtral".
        experts_by_layer: Experts of each decoder layer, 0 for a layer without a mixture.
        num_experts_per_token: Experts chosen for each token.
        vocab_size: Token ids are below this.
        eos_token_ids: Tokens that end a text.
        max_model_len: Longest prompt plus output in tokens.
        block_size: Tokens in one cache block.
        num_blocks: Blocks on the device, with ids 0 .. num_blocks - 1.
        num_host_blocks: Blocks' worth of host memory for offloaded sequences.
        dtype: Compute type, such as "float32".
        checkpoint_dtype: The checkpoint's type; may be empty.
        dtype_reason: Why `dtype` was chosen, in a few words; may be empty.
        quantization: Of the weights, or "none".
        device: Such as "cpu".
        tokenizer_json: Its tokenizer.json.
        chat_template: Jinja source; may be empty.
        special_tokens: Text by role, such as "bos_token".
        sampling: How tokens are chosen where a request does not say.
        block_bytes: Bytes of one block on the device.
        host_block_bytes: Bytes of one block in host memory or on disk.
        state_bytes: Bytes that one sequence on the device keeps besides its blocks.
        num_states: Most sequences on the device that keep such; 0: no limit.
        num_disk_blocks: Blocks' worth of disk for offloaded sequences.
        no_sharing_reason: Why blocks can't be shared by sequences that begin alike; empty where they can.
        no_structure_reason: Why texts can't be kept to structures; empty where they can.
    """

    name: str
    other_names: Sequence[str]
    family: str
    experts_by_layer: Sequence[int]
    num_experts_per_token: int
    vocab_size: int
    eos_token_ids: Sequence[int]
    max_model_len: int
    block_size: int
    num_blocks: int
    num_host_blocks: int
    dtype: str
    quantization: str
    device: str
    tokenizer_json: bytes
    chat_template: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    checkpoint_dtype: str = ""
    dtype_reason: str = ""
    block_bytes: int = 0
    host_block_bytes: int = 0
    state_bytes: int = 0
    num_states: int = 0
    num_disk_blocks: int = 0
    no_sharing_reason: str = ""
    no_structure_reason: str = ""

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self.experts_by_layer)


@dataclass(frozen=True, slots=True)
class Hello:
    """Introduces a worker.

    Attributes:
        model: What is served.
        calibration: Timings of made-up or warming iterations, for the scheduler's cost model to start from.
        pid: The worker's process id on its host.
    """

    model: WorkerModel
    calibration: Sequence[WorkTiming]
    pid: int
