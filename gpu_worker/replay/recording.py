"""Decodes recorded once, to be replayed: a device is told all the kernels of several layers by one call.

    recording   |segment 0: embedding, layers 0-3|segment 1: layers 4-7| ... |last: layers, head|   one CUDA graph each
    a pass      place rows ─▶ replay 0 ─▶ (may be suspended) ─▶ replay 1 ─▶ ... ─▶ logits

A segment begins and ends at layer boundaries, where passes suspend. It is recorded from the model's own forward,
suspended there between one recording and the next. What flows from one segment to the next lies in the graphs' own
memory, so a recording serves one pass at a time; while one is suspended, another takes the next larger recording.

It knows no sequences beyond their spans, no commands and no policy.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gpu_worker.cache.block_table import BlockTable
from gpu_worker.cache.ragged import RaggedCache
from gpu_worker.cache.span import Span
from gpu_worker.cache.static_placement import StaticPlacement
from gpu_worker.cache.unified import Layout, UnifiedDynamicCache
from gpu_worker.errors import PassFailed, one_line
from gpu_worker.experts.queues import ExpertWeights, ExpertWork
from gpu_worker.machine.devices import check_alive, is_host, to_device
from gpu_worker.model.loader import LoadedModel
from gpu_worker.passes.forward import ForwardPass, RunExperts
from gpu_worker.passes.unit import Unit

logger = logging.getLogger(__name__)

LONGEST = 2048  # rows of a sequence that a recording takes; where no kernel reads block tables, all are read each time
_MOST_ERROR = 1e-2  # of replayed logits: the kernels are the same, so that it should be nothing
_MOST_ERROR_IN_HALF = 0.3
_failed_graphs: list[torch.cuda.CUDAGraph] = []  # one in a process, most of the time: after it no more are tried


class Recorder(Protocol):
    """Records work so that it can be done again."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Records some work, which reads and writes the same tensors each time, and returns what does it again."""


class GraphRecorder:
    """Records CUDA graphs that share one pool of memory, and so must be replayed in the order of their recording.

    Not torch.cuda.graph, which collects garbage before each: a model has hundreds of segments. What other threads ask
    of the device meanwhile ends no recording.
    """

    def __init__(self) -> None:
        torch.cuda.synchronize()
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Records a graph; nothing is computed yet."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                work()
            except BaseException:
                # torch's allocator goes on asking a capture that failed for its streams: it must not be gone.
                _failed_graphs.append(graph)
                with suppress(RuntimeError):  # it says only that what was raised has ended it
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph.replay


class StaticCache(RaggedCache):
    """The cache as a recorded pass sees it: its rows lie where a static placement says at the time of a replay."""

    def __init__(self, store: UnifiedDynamicCache, placement: StaticPlacement) -> None:
        super().__init__(store, (), frozenset())
        self._static = placement

    @property
    def placement(self) -> StaticPlacement:  # type: ignore[override]  # the same to attention
        """Where the rows lie."""
        return self._static


class Recording:
    """The decode of up to so many sequences, as segments that can be replayed.

    Args:
        model: The model, whose layers have boundaries.
        weights_by_layer: Experts of each layer, all of which run whole.
        store: Where K and V lie.
        placement: Where a pass's rows lie in it.
        segments: Layers of each segment.

    Attributes:
        placement: The same.
        segments: The same.
        is_leased: Whether a pass uses it.
        logits: What the last segment leaves (num_rows, V).
        error: By how much what it replayed once was off from what the model computed, relative to it.
    """

    def __init__(
        self,
        model: nn.Module,
        weights_by_layer: Sequence[ExpertWeights | None],
        store: UnifiedDynamicCache,
        placement: StaticPlacement,
        segments: Sequence[range],
    ) -> None:
        self._model = model
        self._weights_by_layer = weights_by_layer
        self._store = store
        self._pass: ForwardPass | None = None
        self._replays: list[Callable[[], None]] = []
        self._num_experts_per_token = 0
        num_rows, device = placement.num_rows, store.device
        self._token_ids = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self._position_ids = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self.placement = placement
        self.segments = tuple(segments)
        self.is_leased = False
        self.logits = torch.empty(0, device=device)
        self.error = 0.0

    def record(self, recorder: Recorder) -> None:
        """Records all segments, after a run in which kernels are chosen and memory is taken, and replays them once.

        Blocks of the cache that belong to nobody are written to.

        Raises:
            PassFailed: Replayed they give something else.
        """
        numbers = range(len(self.segments))
        num_rows = self._place_trial()
        for number in numbers:
            self._run(number)
        expected = self.logits[:num_rows].double()  # (rows, V), a copy: recording changes what it was made of
        self._replays = [recorder.record(self._runner_of(number)) for number in numbers]
        self._pass = None
        self.logits.zero_()  # so that what is left from before is not taken for what is replayed
        for number in numbers:
            self.replay(number)
        self.error = _median_error(self.logits[:num_rows].double(), expected)
        if not self.error <= (limit := _MOST_ERROR_IN_HALF if self.logits.element_size() == 2 else _MOST_ERROR):
            raise PassFailed(f"replayed logits are off by {self.error:.2g} of what they should be, allowed is {limit}")

    def fill(self, token_ids: Sequence[int], positions: Sequence[int]) -> None:
        """Says what the next pass computes; rows beyond that stand for nobody."""
        for static, values in ((self._token_ids, token_ids), (self._position_ids, positions)):
            static[: len(values)].copy_(to_device(torch.tensor(values), static.device))

    def replay(self, number: int) -> None:
        """Runs a segment; those before it must have run, in order."""
        self._replays[number]()

    def unit(self, number: int, num_tokens: int, expert_share: float) -> Unit:
        """What a segment runs for so many tokens."""
        layers = self.segments[number]
        num_pairs = num_tokens * self._num_experts_per_token
        mixtures = [weights for layer in layers if (weights := self._weights_by_layer[layer]) is not None]
        num_runs = sum(min(weights.num_experts, num_pairs) for weights in mixtures)
        return Unit(len(layers), num_runs, len(mixtures) * num_pairs, expert_share if mixtures else 0.0)

    @property
    def nbytes(self) -> int:
        """Bytes of its inputs and its logits."""
        return self.placement.nbytes + self._token_ids.nbytes + self._position_ids.nbytes + self.logits.nbytes

    def _place_trial(self) -> int:
        """Fills in sequences of different lengths, each in a block of its own, and returns how many they are."""
        spans: list[Span] = []
        for row, block_id in enumerate(self._store.blocks.free_blocks(self.placement.num_rows)):
            table = BlockTable(row, self._store.block_size, self._store.device)
            table.place([block_id])
            spans.append(Span(table, row, 1, row % self._store.block_size))
        vocabulary: Any = self._model
        vocab_size = vocabulary.get_input_embeddings().num_embeddings
        # Not the first token of all, which in many models pads and gives nothing.
        token_ids = [(1 + span.start) % vocab_size for span in spans]
        self.fill(token_ids, [span.first_position for span in spans])
        self.placement.place(spans)
        return len(spans)

    def _runner_of(self, number: int) -> Callable[[], None]:
        return lambda: self._run(number)

    def _run(self, number: int) -> None:
        """Runs a segment by the model itself."""
        if number == 0:
            self._pass = self._new_pass()
        if self._pass is None:
            raise PassFailed(f"segment {number} was run before the first")
        for layer in self.segments[number]:
            weights = self._weights_by_layer[layer]
            self._pass.run_attention(None if weights is None else self._whole(weights))
        if self._pass.logits is not None:
            self.logits = self._pass.logits

    def _new_pass(self) -> ForwardPass:
        experts_by_layer = [0 if weights is None else weights.num_experts for weights in self._weights_by_layer]
        return ForwardPass(
            self._model,
            experts_by_layer,
            StaticCache(self._store, self.placement),
            self._token_ids,
            self._position_ids,
            self.placement.single_rows,
        )

    def _whole(self, weights: ExpertWeights) -> RunExperts:
        """Runs a layer's experts; rows that stand for nobody go where the first one goes: no other expert is read."""

        def run(work: ExpertWork) -> Tensor:
            self._num_experts_per_token = work.expert_ids.shape[1]
            expert_ids = work.expert_ids.where(self.placement.is_live[:, None], work.expert_ids[:1])  # (T, K)
            return weights.run_whole(ExpertWork(work.module, work.hidden, expert_ids, work.weights))

        return run


def record_decodes(
    loaded: LoadedModel,
    store: UnifiedDynamicCache,
    sizes: Sequence[int],
    segments: Sequence[range],
    new_recorder: Callable[[], Recorder] = GraphRecorder,
    longest: int = LONGEST,
) -> list[Recording]:
    """Makes recordings of a model's decode.

    Args:
        loaded: The model.
        store: Its cache, to which something has been written, with a free block or more.
        sizes: Numbers of sequences to make recordings for.
        segments: Layers that are recorded together.
        new_recorder: Makes a recorder for each.
        longest: Rows of the longest sequence that they take.

    Returns:
        They, rising; none if the model can't be recorded, and those for fewer sequences if those for more can't.

    Raises:
        DeviceLost: Trying has broken the device.
    """
    if reason := _obstacle(loaded, store):
        logger.info("decodes are not recorded: %s", reason)
        return []
    longest = min(longest, loaded.facts.max_model_len, store.num_blocks * store.block_size)
    max_blocks = -(-longest // store.block_size)
    recordings: list[Recording] = []
    for size in sorted(sizes):
        placement = StaticPlacement(size, max_blocks, store.block_size, store.scratch_block, store.device)
        recording = Recording(loaded.model, loaded.expert_weights, store, placement, segments)
        if failure := _record(recording, new_recorder, store.device):
            logger.warning(
                "decodes way=recorded num_rows=%d failed=%r instead=run by the model, as more are", size, failure
            )
            break
        logger.info("decodes way=recorded num_rows=%d error=%.2g", size, recording.error)
        recordings.append(recording)
    return recordings


def _record(recording: Recording, new_recorder: Callable[[], Recorder], device: torch.device) -> str:
    """Makes a recording; returns why that can't be done, or nothing if it is."""
    try:
        recording.record(new_recorder())
    except Exception as error:  # of capturing, of a kernel that can't be captured, or for want of memory
        check_alive(device, error)
        return f"{type(error).__name__}: {one_line(error)}"
    return ""


def _median_error(logits: Tensor, expected: Tensor) -> float:
    """The median over rows (rows, V) of the relative error; in half precision a last bit may choose other experts."""
    errors = (logits - expected).norm(dim=-1) / expected.norm(dim=-1)  # (rows,)
    return float(errors.median())


def _obstacle(loaded: LoadedModel, store: UnifiedDynamicCache) -> str:
    """Why a model's decode is not the same kernels each time, or nothing if it is."""
    if store.layout is not Layout.PAGES:
        return "the cache does not lie in pages"
    if loaded.latent_layers:
        return "its attention is given all cached rows, whose number changes"
    if loaded.runs_modules_alone:
        return "some of its modules run once for each sequence"
    mixtures = [weights for weights in loaded.expert_weights if weights is not None]
    if not all(weights.runs_whole for weights in mixtures):
        return "its experts run one by one"
    if mixtures and not is_host(store.device) and loaded.facts.dtype != "bfloat16":
        return f"grouped products of {loaded.facts.dtype} make the host wait"
    return ""
