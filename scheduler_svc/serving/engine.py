"""Owns the scheduler core at run time: requests in, commands to the worker, tokens out.

Runs on the event loop as plain callbacks: each event (a request, a result) ends in one `pump` of the driver, which asks
the core what to send. Commands leave before tokens are handed out, so that the worker waits for nobody. Knows no
socket and no text.
"""

import asyncio
import logging
from collections import abc
from collections.abc import Callable
from itertools import count

from scheduler_svc.core.forecast import Forecast
from scheduler_svc.core.kinship import search_beams, share_prompt
from scheduler_svc.core.policies import POLICIES
from scheduler_svc.core.scheduler import Scheduler
from scheduler_svc.core.sessions import Programs, ToolTimes
from scheduler_svc.core.state.commands import Command
from scheduler_svc.core.state.ids import CommandId, SeqId
from scheduler_svc.core.state.results import (
    FailureOutput,
    HypothesesOutput,
    IntegrityReport,
    Output,
    PromptOutput,
    StepResult,
    TokenOutput,
    WorkTiming,
)
from scheduler_svc.core.state.sequence import FinishReason, RequestClass, Sequence
from scheduler_svc.errors import BatchFailed, Refusal, RulesLeaveNothing, ServiceError, WorkerUnavailable
from scheduler_svc.generation import GenerationRequest, IntegrityCheck, Loads, ServedModel, TokenStream, WorkerState
from scheduler_svc.metrics import Metrics
from scheduler_svc.serving.absence import Absence
from scheduler_svc.serving.driver import CoreDriver
from scheduler_svc.serving.engine_settings import EngineSettings
from scheduler_svc.serving.fan_out import FanOut
from scheduler_svc.serving.integrity import Books, IntegrityChecks, read_books
from scheduler_svc.serving.live_requests import LiveRequest, LiveRequests
from scheduler_svc.serving.loads import loads_without_worker, read_loads
from scheduler_svc.serving.succession import Succession
from scheduler_svc.serving.token_stream import BufferedTokenStream
from scheduler_svc.timeline import Timeline

_log = logging.getLogger(__name__)

# A worker hangs that takes so many times as long for a unit as is predicted, and this long besides: the machine may be
# busy with other things, and what is done for the first time takes longer.
_PATIENCE, _LEAST_PATIENCE_S = 20.0, 2.0


class Engine:
    """Implements `Generator` for front ends and `LinkListener` for the worker link.

    Args:
        settings: How to schedule.
        send: Hands commands to the worker, in order, without waiting.
        on_fatal: Called with an error that should end the process: the core contradicted itself.
        timeline: Records what happens, if anything does.
        tool_times: What is known and learned of how long tools take, if anybody keeps it.
    """

    def __init__(
        self,
        settings: EngineSettings,
        send: Callable[[abc.Sequence[Command]], object],
        on_fatal: Callable[[BaseException], None],
        timeline: Timeline | None = None,
        tool_times: ToolTimes | None = None,
    ) -> None:
        self._settings = settings
        self._timeline = timeline
        self._sessions = Programs(settings.sessions, tool_times)
        self._loop = asyncio.get_running_loop()
        self._fan_out = FanOut(self._loop.call_soon)
        self._driver = CoreDriver(send, on_fatal)
        self._model: ServedModel | None = None
        self._state = WorkerState.ABSENT
        self._epoch = 0
        self._seq_ids = count(1)
        self._metrics = Metrics()
        self._live = LiveRequests(settings.class_limits, self._loop.time, self._metrics, timeline)
        self._succession = Succession(self._live)
        self._checks = IntegrityChecks(send)
        self._absence = Absence(settings.worker_wait_s, self._give_up)
        self._on_state_change: list[Callable[[], None]] = []

    # ---- Generator: what front ends call

    @property
    def model(self) -> ServedModel | None:
        """The connected worker's model, or the last one's while another is waited for; None where none is."""
        return self._model

    @property
    def worker_state(self) -> WorkerState:
        """The worker's state."""
        return self._state

    @property
    def worker_epoch(self) -> int:
        """The connected or last worker's epoch; 0 if none ever connected."""
        return self._epoch

    @property
    def no_sharing_reason(self) -> str:
        """Why prompts that begin alike do not share what is cached of them; empty where they do."""
        if not self._settings.prefix_caching:
            return "--no-prefix-caching"
        return "no worker is connected" if self._model is None else self._model.core.no_sharing_reason

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Queues a request. Where the worker is gone it waits for the next one.

        Raises:
            DuplicateRequest, Overloaded, DeadlineTooSoon, WorkerUnavailable: It was refused, and nothing was queued.
        """
        return self.submit_choices([request])[0]

    def submit_choices(self, requests: abc.Sequence[GenerationRequest]) -> list[TokenStream]:
        """Queues requests that differ in seed and id alone; raises as `submit` does, and then none is queued."""
        if self._absence.is_over:
            raise WorkerUnavailable(self._absence.reason or "no worker serves")
        core, sequences = self._driver.core, [self._sequence(request) for request in requests]
        self._live.admit(requests, Forecast() if core is None else core.forecast(sequences[0]))
        streams: list[TokenStream] = [*map(self._go_live, requests, sequences)]
        if len(sequences) > 1 and not sequences[0].is_scored:  # of a prompt that is scored each is told by itself
            share_prompt(sequences)
        if core is not None:
            for sequence in sequences:
                core.add(sequence)
            self._driver.pump()
        return streams

    def _sequence(self, request: GenerationRequest) -> Sequence:
        """Makes the sequence of a request that arrives now."""
        sequence = Sequence(
            self._new_seq_id(),
            request.request_class,
            request.prompt_token_ids,
            request.sampling,
            request.stop,
            self._loop.time(),
            output_token_ids=[*request.output_token_ids],
            targets=request.targets,
            deadline_s=request.deadline_s,
            salt=request.cache_salt,
            session=request.session,
        )
        if request.beams is not None:
            search_beams(sequence, request.beams, self._new_seq_id)
        return sequence

    def _go_live(self, request: GenerationRequest, sequence: Sequence) -> BufferedTokenStream:
        """Adds a request that was admitted; returns where its tokens will come."""
        stream = BufferedTokenStream(
            request.request_class,
            self._fan_out,
            usage=lambda: sequence.usage(self._loop.time()),
            on_close=lambda reason: self._end_early(sequence.seq_id, reason),
            on_call=lambda tool: self._sessions.calls(sequence, tool),
        )
        self._live.add(LiveRequest(request, sequence, stream))
        return stream

    def _new_seq_id(self) -> SeqId:
        return SeqId(next(self._seq_ids))

    def abort(self, request_id: str, tenant: str | None = None) -> bool:
        """Ends the tenant's live request, or whoever's, with ABORTED; returns False if there is none."""
        found = self._live.find(request_id, tenant)
        for seq_id in found:
            self._end_early(seq_id, FinishReason.ABORTED)
        return bool(found)

    def on_state_change(self, tell: Callable[[], None]) -> None:
        """Calls `tell` after each change of `worker_state`, from now on."""
        self._on_state_change.append(tell)

    def loads(self) -> Loads:
        """Returns the loads now."""
        if self._driver.core is None:
            return loads_without_worker(self._live.num_by_class)
        return read_loads(self._driver.core, self._loop.time())

    def best_effort_wait_s(self) -> float | None:
        """Predicts after how long a further best-effort request would be begun; None while no worker serves."""
        if self._driver.core is None or self._state is not WorkerState.READY:
            return None
        return self._driver.core.wait_s(RequestClass.BEST_EFFORT)

    async def check_integrity(self) -> IntegrityCheck:
        """Checks the books of memory on both sides."""
        return await self._checks.run(self._read_books)

    def metrics(self) -> bytes:
        """Returns the metrics as they stand, as the page that Prometheus reads."""
        return self._metrics.page(self.loads(), worker_is_ready=self._state is WorkerState.READY)

    def note_refused(self, request_class: RequestClass, refusal: Refusal) -> None:
        """Counts a request that was refused."""
        self._metrics.requests.refused(request_class, refusal)

    def note_items_ended(self, status: str, number: int) -> None:
        """Counts items of durable jobs whose outcome was recorded, by how they ended."""
        self._metrics.items.ended(status, number)

    # ---- LinkListener: what the worker link calls

    def worker_joined(self, epoch: int, model: ServedModel, calibration: list[WorkTiming], pid: int) -> None:
        """Starts a new scheduler core for a new life of the worker, and goes on with the requests that wait for it."""
        self._retire_core()
        settings = self._settings
        scheduler = Scheduler(
            model.core,
            POLICIES[settings.policy](),
            settings.limits,
            settings.preempt_at,
            settings.starvation,
            self._timeline.worker_joined(model.core) if self._timeline is not None else None,
            calibration,
            self._sessions,
            shares=settings.prefix_caching,
        )
        self._driver.drive(scheduler)
        self._model, self._epoch = model, epoch
        _log.info("worker_ready epoch=%016x model=%s pid=%d policy=%s", epoch, model.name, pid, settings.policy)
        if self.no_sharing_reason:
            _log.info("prefixes_not_shared epoch=%016x reason=%r", epoch, self.no_sharing_reason)
        self._absence.ends()
        self._go_on_with(scheduler, model)
        self._change_state(WorkerState.READY)

    def step_result(self, result: StepResult) -> None:
        """Takes in what a step did."""
        if self._driver.core is not None:
            self._succession.answered()
            outputs = self._driver.call(lambda core: core.update(result, self._loop.time()))
            self._driver.pump()  # first: the worker may be about to run dry, and handing tokens out takes longer
            self._deliver(outputs or [])

    def integrity_reported(self, report: IntegrityReport) -> None:
        """Takes in what the worker holds."""
        self._checks.reported(report)

    def command_refused(self, message: str, command_id: CommandId | None) -> None:
        """Ends the requests whose step the worker refused."""
        if self._driver.core is not None and command_id is not None:
            outputs = self._driver.call(lambda core: core.refuse(command_id, message, self._loop.time()))
            self._driver.pump()
            self._deliver(outputs or [])

    def patience_s(self) -> float | None:
        """Returns how long the worker may go without progress in the step that it runs; None if nothing is known."""
        unit_s = None if self._driver.core is None else self._driver.core.running_unit_s
        return None if unit_s is None else _LEAST_PATIENCE_S + _PATIENCE * unit_s

    def worker_lost(self, reason: str, *, died: bool) -> None:
        """Keeps the requests for the next worker, which computes again what this one knew."""
        core = self._driver.core
        self._retire_core()
        for live, error in self._succession.lost(core, died=died):
            _log.error("request_quarantined request_id=%s", live.request.request_id)
            self._fail_one(live, error)
        self._absence.begins(f"the worker is gone: {reason}")
        self._change_state(WorkerState.ABSENT)
        if self._succession.is_in_vain:
            self._absence.is_enough(f"worker after worker dies before it has answered anything: {reason}")
        elif self._live:
            _log.warning("requests_wait num=%d reason=%r", len(self._live), reason)

    def worker_waits(self, pid: int) -> None:
        """Changes nothing here."""

    def worker_hung(self, reason: str) -> None:
        """Lets the requests wait: the worker may recover, or another take its place."""
        self._absence.begins(f"the worker makes no progress: {reason}")
        self._change_state(WorkerState.HUNG)

    def worker_recovered(self) -> None:
        """Serves again."""
        self._absence.ends()
        self._change_state(WorkerState.READY)

    def close(self) -> None:
        """Stops waiting for a worker."""
        self._absence.close()
        self._driver.close()

    # ---- inside

    def _retire_core(self) -> None:
        """Parts with the core of a worker that is gone; what it counted goes on to be shown."""
        if self._driver.core is not None:
            self._metrics.worker_lost(self.loads())
            self._checks.worker_lost()
            self._sessions.worker_lost()
        self._driver.drive(None)

    def _go_on_with(self, scheduler: Scheduler, model: ServedModel) -> None:
        """Has the new worker go on with the requests of the last one."""
        waiting = self._succession.next(model)
        for live, error in waiting:
            if error is None:
                scheduler.add(live.sequence)
                self._metrics.requests.resumed(live.request.request_class)
            else:
                self._fail_one(live, error)
        if waiting:
            _log.info("requests_go_on num=%d", len(self._live))
            self._driver.pump()

    def _give_up(self, reason: str) -> None:
        """Ends all requests: they have waited for a worker for as long as they may."""
        for live in self._live.all():
            seq_id = live.sequence.seq_id
            self._driver.call(lambda core, seq_id=seq_id: core.abort(seq_id, self._loop.time()))  # type: ignore[misc]
        if self._driver.core is None:
            self._model = None
        self._driver.pump()  # one that hangs is told, should it recover
        self._fail_all(reason)

    def _read_books(self) -> Books | None:
        """Returns the core's books once all that it has decided is on its way; None if no worker is connected."""
        self._driver.pump()
        return read_books(self._driver.core) if self._driver.core is not None else None

    def _deliver(self, outputs: list[Output]) -> None:
        for output in outputs:
            live = self._live.get(output.seq_id)
            if live is None:
                continue
            match output:
                case TokenOutput() | PromptOutput():
                    live.stream.push(output)
                    self._handed_out(live, output.finish_reason)
                case HypothesesOutput():
                    live.stream.answer(output)
                    self._handed_out(live, output.hypotheses[0].finish_reason)
                case FailureOutput():
                    self._fail_one(live, _failure(live, output))

    def _handed_out(self, live: LiveRequest, reason: FinishReason | None) -> None:
        """Takes in that a request was told something; with a reason it was the last."""
        if not live.has_token and live.sequence.first_token_s is not None:
            self._live.note_first_token(live)
        if reason is not None:
            self._live.leave(live.sequence.seq_id, reason)

    def _end_early(self, seq_id: SeqId, reason: FinishReason) -> None:
        live = self._live.get(seq_id)
        if live is None:
            return
        end = Scheduler.abort if reason is FinishReason.ABORTED else Scheduler.finish
        self._driver.call(lambda core: end(core, seq_id, self._loop.time()))
        self._live.leave(seq_id, reason)
        live.stream.finish(reason, live.sequence.usage(self._loop.time()))
        self._driver.pump()

    def _fail_all(self, reason: str) -> None:
        """Ends every live request, each with an error and a time to come back of its own."""
        if self._live:
            _log.error("requests_ended num=%d error=%r", len(self._live), reason)
        for live in self._live.all():
            self._fail_one(live, WorkerUnavailable(reason))

    def _fail_one(self, live: LiveRequest, error: ServiceError) -> None:
        live.stream.fail(error)
        self._live.leave(live.sequence.seq_id, None)

    def _change_state(self, state: WorkerState) -> None:
        if state is not self._state:
            self._state = state
            for tell in self._on_state_change:
                tell()


def _failure(live: LiveRequest, output: FailureOutput) -> ServiceError:
    """Returns the error that a failed request ends with; what its own rules say is its caller's, and not the log's."""
    if output.rules_leave_nothing:
        return RulesLeaveNothing(output.message)
    _log.error("request_failed request_id=%s error=%r", live.request.request_id, output.message)
    return BatchFailed("the worker could not run this request")
