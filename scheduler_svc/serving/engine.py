"""Owns the scheduler core at run time: requests in, commands to the worker, tokens out.

Runs on the event loop as plain callbacks: each event (a request, a result, a timer) ends in one `_pump`, which asks
the core what to send. Commands leave before tokens are handed out, so that the worker waits for nobody. Knows no
socket and no text.
"""

import asyncio
import logging
from collections import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated, TypeVar

from qllm.settings import MEMORY, SCHEDULING, SERVING, Setting

from scheduler_svc.core.backlog import best_effort_wait_s
from scheduler_svc.core.forecast import Forecast
from scheduler_svc.core.policies import POLICIES, Limits
from scheduler_svc.core.scheduler import Scheduler
from scheduler_svc.core.sessions import Programs, SessionLimits, ToolTimes
from scheduler_svc.core.starvation import StarvationLimits
from scheduler_svc.core.state.commands import Command
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.ids import CommandId, SeqId
from scheduler_svc.core.state.results import IntegrityReport, Output, StepResult, TokenOutput, WorkTiming
from scheduler_svc.core.state.sequence import FinishReason, RequestClass, Sequence
from scheduler_svc.errors import BatchFailed, Refusal, ServiceError, WorkerKilled, WorkerUnavailable
from scheduler_svc.generation import GenerationRequest, IntegrityCheck, Loads, ServedModel, TokenStream, WorkerState
from scheduler_svc.metrics import Metrics
from scheduler_svc.serving.absence import Absence
from scheduler_svc.serving.admission import ClassLimits
from scheduler_svc.serving.fan_out import FanOut
from scheduler_svc.serving.integrity import Books, IntegrityChecks, read_books
from scheduler_svc.serving.live_requests import LiveRequest, LiveRequests
from scheduler_svc.serving.loads import loads_without_worker, read_loads
from scheduler_svc.serving.token_stream import BufferedTokenStream
from scheduler_svc.timeline import Timeline

_log = logging.getLogger(__name__)

T = TypeVar("T")

LS = RequestClass.LATENCY_SENSITIVE
_MOST_DEATHS_ALONE = 2
# A worker hangs that takes so many times as long for a unit as is predicted, and this long besides: the machine may be
# busy with other things, and what is done for the first time takes longer.
_PATIENCE, _LEAST_PATIENCE_S = 20.0, 2.0


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the engine schedules, and how many requests of each class may be live."""

    policy: Annotated[
        str,
        Setting(choices=tuple(POLICIES), panel=SCHEDULING),
        "Chooses what runs next: qllm lets latency-sensitive requests stop best-effort work inside a layer, paper is "
        "the published algorithm, priority-iteration lets them go first but only between iterations, and fcfs ignores "
        "the class of a request.",
    ] = "qllm"
    preempt_at: Annotated[
        PreemptAt,
        Setting(panel=SCHEDULING),
        "Chooses where running work may be stopped: before any expert, before any layer, or only at the end of an "
        "iteration. With the policies priority-iteration and fcfs it is always the end of an iteration.",
    ] = PreemptAt.EXPERT
    limits: Limits = field(default_factory=Limits)
    starvation: StarvationLimits = field(default_factory=StarvationLimits)
    sessions: SessionLimits = field(default_factory=SessionLimits)
    max_ls_requests: Annotated[
        int,
        Setting(1, 1 << 20, panel=MEMORY),
        "Limits how many latency-sensitive requests may run or wait at a time. Further ones are refused at once.",
    ] = 1024
    max_be_requests: Annotated[
        int,
        Setting(1, 1 << 20, panel=MEMORY),
        "Limits how many best-effort requests may run or wait at a time. Further ones are refused at once.",
    ] = 16384
    max_ls_tokens: Annotated[
        int,
        Setting(0, 1 << 40, panel=MEMORY),
        "Limits the tokens of all latency-sensitive requests that run or wait: those of their prompts, and as many "
        "more as they may generate. Further requests are refused at once. With 0 there is no limit.",
    ] = 0
    max_be_tokens: Annotated[
        int,
        Setting(0, 1 << 40, panel=MEMORY),
        "Limits the tokens of all best-effort requests that run or wait: those of their prompts, and as many more as "
        "they may generate. Further requests are refused at once. With 0 there is no limit.",
    ] = 0
    ls_max_wait_s: Annotated[
        float,
        Setting(0, 86_400, panel=MEMORY),
        "Refuses a latency-sensitive request at once if it is predicted to wait longer than so many seconds before it "
        "is begun, and says when to come back. With 0 it may wait however long.",
    ] = 30.0
    prefix_caching: Annotated[
        bool,
        Setting(panel=MEMORY),
        "Lets requests whose prompts begin with equal tokens share what is cached of them, so that only the rest of "
        "each prompt is computed. Requests whose cache_salt differs never share. Where a model can't share, the log "
        "says why.",
    ] = True
    worker_wait_s: Annotated[
        float,
        Setting(0, 3600, panel=SERVING),
        "Sets for how many seconds requests wait for a worker when the one that served is gone or makes no progress. "
        "Those that run go on with the next worker where they were, and new ones begin there. After that time they "
        "end with UNAVAILABLE (HTTP 503).",
    ] = 60.0


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
        self._send = send
        self._on_fatal = on_fatal
        self._timeline = timeline
        self._sessions = Programs(settings.sessions, tool_times)
        self._loop = asyncio.get_running_loop()
        self._fan_out = FanOut(self._loop.call_soon)
        self._timer: asyncio.TimerHandle | None = None
        self._scheduler: Scheduler | None = None
        self._model: ServedModel | None = None
        self._state = WorkerState.ABSENT
        self._epoch = 0
        self._seq_ids = count(1)
        self._metrics = Metrics()
        limits = {
            RequestClass.LATENCY_SENSITIVE: ClassLimits(
                settings.max_ls_requests, settings.max_ls_tokens, settings.ls_max_wait_s
            ),
            RequestClass.BEST_EFFORT: ClassLimits(settings.max_be_requests, settings.max_be_tokens),
        }
        self._live = LiveRequests(limits, self._loop.time, self._metrics, timeline)
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
        if self._absence.is_over:
            raise WorkerUnavailable(self._absence.reason or "no worker serves")
        seq_id = SeqId(next(self._seq_ids))
        sequence = Sequence(
            seq_id,
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
        forecast = Forecast() if self._scheduler is None else self._scheduler.forecast(sequence)
        self._live.admit(request, forecast)
        stream = BufferedTokenStream(
            request.request_class,
            self._fan_out,
            usage=lambda: sequence.usage(self._loop.time()),
            on_close=lambda reason: self._end_early(seq_id, reason),
        )
        self._live.add(LiveRequest(request, sequence, stream))
        if self._scheduler is not None:
            self._scheduler.add(sequence)
            self._pump()
        return stream

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
        if self._scheduler is None:
            return loads_without_worker(self._live.num_by_class)
        return read_loads(self._scheduler, self._loop.time())

    def best_effort_wait_s(self) -> float | None:
        """Predicts after how long a further best-effort request would be begun; None while no worker serves."""
        if self._scheduler is None or self._state is not WorkerState.READY:
            return None
        return best_effort_wait_s(self._scheduler.work)

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
        settings, last = self._settings, self._model
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
        self._scheduler, self._model, self._epoch = scheduler, model, epoch
        _log.info("worker_ready epoch=%016x model=%s pid=%d policy=%s", epoch, model.name, pid, settings.policy)
        if self.no_sharing_reason:
            _log.info("prefixes_not_shared epoch=%016x reason=%r", epoch, self.no_sharing_reason)
        self._absence.ends()
        self._go_on_with(scheduler, model, last)
        self._change_state(WorkerState.READY)

    def step_result(self, result: StepResult) -> None:
        """Takes in what a step did."""
        if self._scheduler is not None:
            outputs = self._guarded(lambda core: core.update(result, self._loop.time()))
            self._pump()  # first: the worker may be about to run dry, and handing tokens out takes longer
            self._deliver(outputs or [])

    def integrity_reported(self, report: IntegrityReport) -> None:
        """Takes in what the worker holds."""
        self._checks.reported(report)

    def command_refused(self, message: str, command_id: CommandId | None) -> None:
        """Ends the requests whose step the worker refused."""
        if self._scheduler is not None and command_id is not None:
            outputs = self._guarded(lambda core: core.refuse(command_id, message, self._loop.time()))
            self._pump()
            self._deliver(outputs or [])

    def patience_s(self) -> float | None:
        """Returns how long the worker may go without progress in the step that it runs; None if nothing is known."""
        unit_s = None if self._scheduler is None else self._scheduler.running_unit_s
        return None if unit_s is None else _LEAST_PATIENCE_S + _PATIENCE * unit_s

    def worker_lost(self, reason: str) -> None:
        """Keeps the requests for the next worker, which computes again what this one knew."""
        running = self._scheduler.running if self._scheduler is not None else ()
        self._retire_core()
        self._cancel_timer()
        for sequence in running:
            sequence.note_death(was_alone=len(running) == 1)
        for live in self._live.all():
            live.sequence.lose_worker()
            if live.sequence.num_deaths_alone >= _MOST_DEATHS_ALONE:
                self._quarantine(live)
        self._absence.begins(f"the worker is gone: {reason}")
        self._change_state(WorkerState.ABSENT)
        if self._live:
            _log.warning("requests_wait num=%d reason=%r", len(self._live), reason)

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
        self._cancel_timer()

    # ---- inside

    def _retire_core(self) -> None:
        """Parts with the core of a worker that is gone; what it counted goes on to be shown."""
        if self._scheduler is not None:
            self._metrics.worker_lost(self.loads())
            self._checks.worker_lost()
            self._sessions.worker_lost()
        self._scheduler = None

    def _go_on_with(self, scheduler: Scheduler, model: ServedModel, last: ServedModel | None) -> None:
        """Has the new worker go on with the requests of the last one, latency-sensitive ones first."""
        waiting = sorted(self._live.all(), key=lambda live: live.request.request_class is not LS)
        for live in waiting:
            reason = _why_not(live.request, model, last)
            if reason is None:
                scheduler.add(live.sequence)
                self._metrics.requests.resumed(live.request.request_class)
            else:
                self._fail_one(live, WorkerUnavailable(reason))
        if waiting:
            _log.info("requests_go_on num=%d", len(self._live))
            self._pump()

    def _quarantine(self, live: LiveRequest) -> None:
        """Ends a request that killed a worker each time that it ran alone."""
        _log.error("request_quarantined request_id=%s", live.request.request_id)
        self._fail_one(live, WorkerKilled(live.sequence.num_deaths_alone))

    def _give_up(self, reason: str) -> None:
        """Ends all requests: they have waited for a worker for as long as they may."""
        for live in self._live.all():
            seq_id = live.sequence.seq_id
            self._guarded(lambda core, seq_id=seq_id: core.abort(seq_id, self._loop.time()))  # type: ignore[misc]
        if self._scheduler is None:
            self._model = None
        self._pump()  # one that hangs is told, should it recover
        self._fail_all(reason)

    def _read_books(self) -> Books | None:
        """Returns the core's books once all that it has decided is on its way; None if no worker is connected."""
        self._pump()
        return read_books(self._scheduler) if self._scheduler is not None else None

    def _pump(self) -> None:
        """Sends what the core wants sent now, and sets the timer for when it wants to be asked again."""
        self._cancel_timer()  # the core says anew when it wants to be asked
        commands = self._guarded(lambda core: core.schedule(self._loop.time()))
        if commands:
            # A worker that is gone is reported later, so that no scheduler vanishes under this call.
            self._send(commands)
        if self._scheduler is not None and self._scheduler.wakeup_s is not None:
            self._timer = self._loop.call_at(self._scheduler.wakeup_s, self._pump)

    def _guarded(self, act: Callable[[Scheduler], T]) -> T | None:
        """Calls the core; an error in there is a defect that must not go unnoticed, so it ends the process."""
        if self._scheduler is None:
            return None
        try:
            return act(self._scheduler)
        except Exception as error:
            _log.exception("core_failed")
            self._on_fatal(error)
            return None

    def _deliver(self, outputs: list[Output]) -> None:
        for output in outputs:
            live = self._live.get(output.seq_id)
            if live is None:
                continue
            if isinstance(output, TokenOutput):
                live.stream.push(output)
                if not live.has_token:
                    self._live.note_first_token(live)
                if output.finish_reason is not None:
                    self._live.leave(output.seq_id, output.finish_reason)
            else:
                _log.error("request_failed request_id=%s error=%r", live.request.request_id, output.message)
                self._fail_one(live, BatchFailed("the worker could not run this request"))

    def _end_early(self, seq_id: SeqId, reason: FinishReason) -> None:
        live = self._live.get(seq_id)
        if live is None:
            return
        end = Scheduler.abort if reason is FinishReason.ABORTED else Scheduler.finish
        self._guarded(lambda core: end(core, seq_id, self._loop.time()))
        self._live.leave(seq_id, reason)
        live.stream.finish(reason, live.sequence.usage(self._loop.time()))
        self._pump()

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

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _why_not(request: GenerationRequest, model: ServedModel, last: ServedModel | None) -> str | None:
    """Says why a request can't go on with a worker's model; None if it can."""
    if last is not None and (model.name, model.tokenizer_json, model.vocab_size) != (
        last.name,
        last.tokenizer_json,
        last.vocab_size,
    ):
        return f"the new worker serves another model, {model.name}; send the request again"
    num_tokens, most = len(request.prompt_token_ids) + request.stop.max_tokens, model.core.max_sequence_tokens
    if num_tokens > most:
        return f"the new worker has room for {most} tokens; the request may need {num_tokens}"
    return None
