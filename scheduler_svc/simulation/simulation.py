"""The loop of a simulation: what is next happens now. Owns the virtual clock, and keeps what came of each request."""

from dataclasses import dataclass
from itertools import count

from scheduler_svc.core.observer import StepObserver
from scheduler_svc.core.policies import POLICIES
from scheduler_svc.core.scheduler import Scheduler
from scheduler_svc.core.sessions import Programs
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.results import Output, TokenOutput
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, Sequence, StopConditions
from scheduler_svc.simulation.agents import Agents, AgentTimes
from scheduler_svc.simulation.arrivals import Arrival, Arrivals
from scheduler_svc.simulation.errors import Stalled
from scheduler_svc.simulation.job import Job
from scheduler_svc.simulation.step_costs import StepCosts
from scheduler_svc.simulation.virtual_worker import VirtualWorker
from scheduler_svc.simulation.window import Window

_GREEDY = SamplingParams(temperature=0.0)
_NEVER_S = float("inf")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one request met; times in virtual seconds, from its arrival.

    Attributes:
        tpot_s: Mean time from each token to the next; None if it has one token only.
        longest_gap_s: Longest time between two of its tokens.
    """

    request_class: RequestClass
    arrival_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    queue_s: float
    ttft_s: float
    tpot_s: float | None
    turnaround_s: float
    num_preemptions: int
    longest_gap_s: float

    @classmethod
    def of(cls, sequence: Sequence, longest_gap_s: float) -> "Outcome":
        """Reads a finished sequence."""
        first_run_s, first_token_s, last_token_s = sequence.first_run_s, sequence.first_token_s, sequence.last_token_s
        assert first_run_s is not None
        assert first_token_s is not None
        assert last_token_s is not None
        num_gaps = len(sequence.output_token_ids) - 1
        return cls(
            request_class=sequence.request_class,
            arrival_s=sequence.arrival_s,
            num_prompt_tokens=len(sequence.prompt_token_ids),
            num_output_tokens=len(sequence.output_token_ids),
            queue_s=first_run_s - sequence.arrival_s,
            ttft_s=first_token_s - sequence.arrival_s,
            tpot_s=(last_token_s - first_token_s) / num_gaps if num_gaps else None,
            turnaround_s=last_token_s - sequence.arrival_s,
            num_preemptions=sequence.num_preemptions,
            longest_gap_s=longest_gap_s,
        )


@dataclass(slots=True)
class _Live:
    """A request under way, with its client or program, the time of its last token and the longest time between two."""

    sequence: Sequence
    client: int | None
    program: int | None
    last_token_s: float | None = None
    longest_gap_s: float = 0.0

    def note_token(self, now_s: float) -> None:
        if self.last_token_s is not None:
            self.longest_gap_s = max(self.longest_gap_s, now_s - self.last_token_s)
        self.last_token_s = now_s


class Simulation:
    """One job under way.

    Attributes:
        now_s: The virtual time.
        outcomes: Of the requests that have ended, in the order of their ends.
        num_events: Times that the core was asked; what a simulation costs is proportional to it.
        window: The output tokens of each class: of the closed loop's window, else of the whole run.
    """

    def __init__(self, job: Job, observer: StepObserver | None = None) -> None:
        self.now_s = 0.0
        self.outcomes: list[Outcome] = []
        self.num_events = 0
        costs = StepCosts(job.cost_table)
        self.worker = VirtualWorker(costs)
        self.scheduler = Scheduler(
            costs.model,
            POLICIES[job.policy](),
            job.limits,
            job.preempt_at,
            job.starvation,
            observer,
            costs.calibration(),
            Programs(job.sessions),
        )
        loop = job.closed_loop
        self.window = Window(loop.from_s, loop.until_s) if loop else Window()
        self._arrivals = Arrivals(job.requests, loop)
        self._agents = Agents(job.agents, job.longest) if job.agents else None
        self._num_unanswered = len(job.requests)  # those of closed-loop clients do not count
        self._has_clients = loop is not None
        self._seq_ids = count(1)
        self._live: dict[SeqId, _Live] = {}

    def run(self) -> None:
        """Goes on until every request has ended; with a closed loop until its window and all other requests have.

        Raises:
            Stalled: Sequences are left that nothing will ever advance.
        """
        self._pump()
        while not self._is_cut and (next_s := self._next_event_s()) < _NEVER_S:
            self.now_s = max(self.now_s, next_s)
            self._admit_arrivals()
            self._take_result()
            self._pump()
        if self._live and not self._is_cut:
            raise Stalled(f"{len(self._live)} requests are left at {self.now_s:.3f} s, and nothing happens any more")

    @property
    def agent_times(self) -> AgentTimes | None:
        """What programs met; None where there are none."""
        return self._agents.times if self._agents else None

    @property
    def _is_cut(self) -> bool:
        """Whether the clients that would go on for ever are of no use any more."""
        others_are_done = not self._num_unanswered and (self._agents is None or self._agents.is_done)
        return self._has_clients and self.now_s >= self.window.until_s and others_are_done

    def _next_event_s(self) -> float:
        """Returns when the next thing happens: an arrival, the end of a step, or a wake-up that the core asked for."""
        ends_s = self.worker.ends_s
        wakeup_s = self.scheduler.wakeup_s
        return min(
            self._arrivals.next_s,
            self._agents.next_s if self._agents else _NEVER_S,
            _NEVER_S if ends_s is None else ends_s,
            _NEVER_S if wakeup_s is None else wakeup_s,
        )

    def _admit_arrivals(self) -> None:
        for arrival in self._arrivals.take_due(self.now_s):
            self._admit(arrival)
        for arrival in self._agents.take_due(self.now_s) if self._agents else ():
            self._admit(arrival)

    def _admit(self, arrival: Arrival) -> None:
        request, turn, seq_id = arrival.request, arrival.turn, SeqId(next(self._seq_ids))
        # All prompts begin alike here: a salt keeps apart what is not said in one program.
        salt = f"request {seq_id}" if turn is None else turn.session.session_id
        sequence = Sequence(
            seq_id,
            request.request_class,
            (0,) * request.num_prompt_tokens,
            _GREEDY,
            StopConditions(request.num_output_tokens),
            request.arrival_s,
            salt=salt.encode(),
            session=turn.session if turn else None,
        )
        self._live[seq_id] = _Live(sequence, arrival.client, turn.program if turn else None)
        self.scheduler.add(sequence)

    def _take_result(self) -> None:
        ends_s = self.worker.ends_s
        if ends_s is None or ends_s > self.now_s:
            return
        result = self.worker.complete()
        self.worker.start_next(self.now_s)
        for output in self.scheduler.update(result, self.now_s):
            self._note(output)

    def _note(self, output: Output) -> None:
        if isinstance(output, TokenOutput):
            live = self._live[output.seq_id]
            live.note_token(self.now_s)
            self.window.note_token(live.sequence.request_class, self.now_s)
            if output.finish_reason is not None:
                self._end(self._live.pop(output.seq_id))

    def _end(self, live: _Live) -> None:
        outcome = Outcome.of(live.sequence, live.longest_gap_s)
        self.outcomes.append(outcome)
        if live.client is not None:
            self._arrivals.ask_again(live.client, self.now_s)
        elif self._agents and live.program is not None:
            self._agents.turn_ended(live.program, outcome.ttft_s, self.now_s)
        else:
            self._num_unanswered -= 1

    def _pump(self) -> None:
        self.num_events += 1
        self.worker.receive(self.scheduler.schedule(self.now_s), self.now_s)
