"""Makes the pass of a batch that begins: a replay where a recording of its shape is free, else one of the model's own.

It knows no commands, and keeps no batch.
"""

from collections.abc import Sequence

import torch

from gpu_worker.cache.ragged import RaggedCache
from gpu_worker.cache.unified import UnifiedDynamicCache
from gpu_worker.execution.sequences import Member
from gpu_worker.machine.clock import Clock
from gpu_worker.machine.devices import to_device
from gpu_worker.model.loader import LoadedModel
from gpu_worker.passes.forward import ForwardPass
from gpu_worker.passes.head import ReadRows
from gpu_worker.passes.interface import Pass
from gpu_worker.replay.recorded_pass import Recordings
from gpu_worker.replay.recording import Recording


class PassMaker:
    """Makes passes over one cache.

    Args:
        loaded: The model.
        cache: Where rows go.
        clock: Times the passes.
    """

    def __init__(self, loaded: LoadedModel, cache: UnifiedDynamicCache, clock: Clock) -> None:
        self._loaded = loaded
        self._cache = cache
        self._clock = clock
        self._recordings = Recordings((), 0.0, clock.mark)

    def replay(self, recordings: Sequence[Recording], expert_share: float) -> None:
        """Has decodes replayed from now on, as `Runner.record_decodes` says."""
        self._recordings = Recordings(recordings, expert_share, self._clock.mark)

    def make(self, members: Sequence[Member], tokens: Sequence[int], read_rows: ReadRows | None = None) -> Pass:
        """Makes a pass, which stands before layer 0.

        Args:
            members: Whose pass it is, in the order of their rows.
            tokens: The tokens of all rows (T,).
            read_rows: Reads the logits of further rows than those that are sampled from.
        """
        spans = [member.span for member in members]
        is_decode = read_rows is None and all(member.samples for member in members)
        if is_decode and (recorded := self._recordings.take(spans, tokens)):
            return recorded
        device = self._cache.device
        sampling_rows = [member.span.stop - 1 for member in members if member.samples]
        positions = [torch.arange(span.first_position, span.length) for span in spans]
        return ForwardPass(
            self._loaded.model,
            self._loaded.facts.experts_by_layer,
            RaggedCache(self._cache, spans, self._loaded.latent_layers, self._loaded.own_layers),
            to_device(torch.tensor(tokens), device),  # (T,)
            to_device(torch.cat(positions), device),  # (T,)
            # The head runs for one row even if nobody samples: that is the model's own smallest output.
            to_device(torch.tensor(sampling_rows or [len(tokens) - 1]), device),  # (rows,)
            self._clock,
            reads_rows_back=self._loaded.reads_rows_back,
            read_rows=read_rows,
        )
