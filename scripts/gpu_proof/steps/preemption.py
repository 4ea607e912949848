"""How long an LS arrival waits until the device begins its first work, while best-effort work runs: inside the worker.

    best-effort ──unit──unit──unit──│ stopped
                        ▲ arrival   │ LS begins: the device has done what it was given ahead
                        └── wait ───┘

The hop over the control channel is not in it; the step `paper` has that, as the time in the queue.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count

import torch

from gpu_worker.contract.commands import AddSequence, BatchItem, Sampling
from gpu_worker.contract.results import AdvanceOutcome, WorkTiming
from gpu_worker.cursor import Cursor
from gpu_worker.execution.runner import Runner
from gpu_worker.machine.process import spare_the_engine
from gpu_worker.model.loader import LoadedModel
from gpu_worker.replay.recording import record_decodes
from gpu_worker.replay.segments import plan_segments
from scripts.gpu_proof.child import StepFailed, Task
from scripts.gpu_proof.steps.model import device_of, large_model

_BLOCK_SIZE = 16
_PREFILL = 2048
_CONTEXT = 512
_NUM_DECODING = 32
_LS_TOKENS = 64
_MOST_ARRIVALS = 200
_FEWEST_ARRIVALS = 3
_OTHER_DECODES = 8  # before the first arrival: warm-up, and one to time a layer
_LS_ID = 1
_FIRST_BE_ID = 10


def run(task: Task) -> None:
    """Measures beside a best-effort prefill, then beside best-effort decodes; each has half of the time."""
    spare_the_engine()
    loaded = large_model(task).loaded
    num_tokens, most = (256, 5) if task.is_rehearsal else (_PREFILL, _MOST_ARRIVALS)
    with torch.inference_mode():
        engine = _Engine(loaded, device_of(task), num_tokens, most)
        halfway_s = task.left_s() / 2
        failures = []
        try:
            figures = engine.measure(engine.prefill, lambda: task.left_s() > halfway_s)
            task.report.figure(f"beside a prefill of {num_tokens}", **figures)
        except Exception as error:  # decodes are worth measuring all the same
            failures.append(f"beside a prefill: {type(error).__name__}: {error}")
        engine.begin_decodes()
        figures = engine.measure(engine.decode, lambda: task.left_s() > 0)
        task.report.figure(f"beside decodes of {_NUM_DECODING}", captured=engine.is_recorded, **figures)
        if failures:
            raise StepFailed("\n".join(failures))


class _Arrival:
    """A latency-sensitive request that comes after some time, while another thread is at work."""

    def __init__(self, after_s: float) -> None:
        self.came_s: float | None = None  # when it was due: what the thread's own waking takes, it waits too
        self._due_s = time.perf_counter() + after_s
        self._timer = threading.Timer(after_s, self._come)
        self._timer.start()

    def cancel(self) -> None:
        """It does not come, if it has not."""
        self._timer.cancel()
        self._timer.join()

    def _come(self) -> None:
        self.came_s = self._due_s


class _Engine:
    """A runner whose best-effort work is interrupted at random times.

    Args:
        loaded: The model.
        device: Where it runs.
        num_prefill_tokens: Length of a best-effort prompt.
        most: Arrivals to measure at most, of each kind.

    Attributes:
        is_recorded: Whether decodes are replayed from CUDA graphs.
    """

    def __init__(self, loaded: LoadedModel, device: str, num_prefill_tokens: int, most: int) -> None:
        self._loaded = loaded
        self._is_device = device == "cuda"
        self._end = Cursor(loaded.facts.num_layers)
        self._chance = random.Random(0)
        self._num_prefill_tokens = num_prefill_tokens
        self._most = most
        self._ls_blocks = range(_blocks(_LS_TOKENS))
        self._blocks_each = _blocks(_CONTEXT + most + _OTHER_DECODES)
        # LS first; decodes lie where the best-effort prompt lay, and behind.
        num_blocks = max(_blocks(num_prefill_tokens), _NUM_DECODING * self._blocks_each)
        self._runner = Runner(loaded, len(self._ls_blocks) + num_blocks, _BLOCK_SIZE, 0)
        self._batch_ids = count(1)
        self._num_decoded = 0
        self.is_recorded = False

    def measure(
        self, run_be: "Callable[[_Arrival | None], float | None]", has_time: Callable[[], bool]
    ) -> dict[str, float]:
        """Interrupts best-effort iterations at random until time is up; returns the waits in milliseconds."""
        run_be(None)  # the first one chooses kernels
        began_s = time.perf_counter()
        run_be(None)
        iteration_s = time.perf_counter() - began_s
        self._serve_ls()
        waits_s: list[float] = []
        num_tries = 0
        while num_tries < self._most and (has_time() or num_tries < _FEWEST_ARRIVALS):
            num_tries += 1
            wait_s = run_be(_Arrival(self._chance.uniform(0, iteration_s)))
            if wait_s is not None:
                waits_s.append(wait_s)
        if not waits_s:
            raise StepFailed(f"none of {num_tries} arrivals came while best-effort work ran")
        ordered = sorted(waits_s)
        p50_s, p99_s = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99))
        return {
            "p50_ms": p50_s * 1e3,
            "p99_ms": p99_s * 1e3,
            "arrivals": len(ordered),
            "iteration_ms": iteration_s * 1e3,
        }

    def prefill(self, arrival: _Arrival | None) -> float | None:
        """Runs one best-effort prompt; returns how long the arrival waited, None if it came too late."""
        first, length = len(self._ls_blocks), self._num_prefill_tokens
        self._add(_FIRST_BE_ID)
        blocks = range(first, first + _blocks(length))
        wait_s = self._run_be([BatchItem(_FIRST_BE_ID, length, self._tokens(length), 0, blocks)], arrival)
        self._runner.drop_sequence(_FIRST_BE_ID)
        return wait_s

    def begin_decodes(self) -> None:
        """Puts sequences where they decode, and has their decodes replayed where that is how they run."""
        for number in range(_NUM_DECODING):
            first = len(self._ls_blocks) + number * self._blocks_each
            blocks = range(first, first + self._blocks_each)
            self._add(_FIRST_BE_ID + number)
            self._iterate([BatchItem(_FIRST_BE_ID + number, _CONTEXT, self._tokens(_CONTEXT), 0, blocks)])
        if self._is_device:
            self._iterate(self._next_decodes())  # the first one chooses kernels
            timing = self._iterate(self._next_decodes())
            segments = plan_segments(self._end.layer, timing.layers_ns / self._end.layer / 1e6, run_ahead_ms=1.0)
            recordings = record_decodes(self._loaded, self._runner.cache, (_NUM_DECODING,), segments)
            self._runner.record_decodes(recordings, timing.expert_ns / max(1, timing.layers_ns))
            self.is_recorded = bool(recordings)

    def decode(self, arrival: _Arrival | None) -> float | None:
        """Runs one best-effort decode iteration; returns how long the arrival waited, None if it came too late."""
        return self._run_be(self._next_decodes(), arrival)

    def _next_decodes(self) -> list[BatchItem]:
        position = _CONTEXT + self._num_decoded
        self._num_decoded += 1
        return [BatchItem(_FIRST_BE_ID + number, 1, (), position) for number in range(_NUM_DECODING)]

    def _run_be(self, items: Sequence[BatchItem], arrival: _Arrival | None) -> float | None:
        batch_id = next(self._batch_ids)
        self._runner.start_batch(batch_id, items)
        if arrival is None:
            self._advance(batch_id)
            return None
        is_over = self._advance(batch_id, lambda cursor: arrival.came_s is None)
        arrival.cancel()
        wait_s = None if arrival.came_s is None else self._serve_ls() - arrival.came_s
        if not is_over:
            self._advance(batch_id)
        return wait_s

    def _serve_ls(self) -> float:
        """Runs one LS prompt; returns the time at which the device began it."""
        self._add(_LS_ID)
        batch_id = next(self._batch_ids)
        self._runner.start_batch(
            batch_id, [BatchItem(_LS_ID, _LS_TOKENS, self._tokens(_LS_TOKENS), 0, self._ls_blocks)]
        )
        if self._is_device:
            torch.cuda.current_stream().synchronize()  # its inputs are there, behind all that was given ahead
        began_s = time.perf_counter()
        self._advance(batch_id)
        self._runner.drop_sequence(_LS_ID)
        return began_s

    def _iterate(self, items: Sequence[BatchItem]) -> WorkTiming:
        batch_id = next(self._batch_ids)
        self._runner.start_batch(batch_id, items)
        return self._checked(self._runner.advance([batch_id], self._end)).timing

    def _advance(self, batch_id: int, goes_on: Callable[[Cursor], bool] = lambda cursor: True) -> bool:
        """Runs a batch as far as it may; returns whether its iteration is over."""
        return self._checked(self._runner.advance([batch_id], self._end, goes_on)).reached == self._end

    def _checked(self, outcome: AdvanceOutcome) -> AdvanceOutcome:
        if outcome.batch_errors:
            raise StepFailed(outcome.batch_errors[0].message)
        return outcome

    def _add(self, seq_id: int) -> None:
        self._runner.add_sequence(AddSequence(seq_id, Sampling(), (), max_tokens=1 << 30))

    def _tokens(self, number: int) -> list[int]:
        return [self._chance.randrange(self._loaded.facts.vocab_size) for _ in range(number)]


def _blocks(num_tokens: int) -> int:
    return -(-num_tokens // _BLOCK_SIZE)
