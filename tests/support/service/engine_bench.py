"""An engine whose worker is the test: it answers steps one by one, each to its end, with a token where one is due.

A token says its own place in the sequence, so that one that is missing, or comes twice, is seen.
"""

from collections import abc
from dataclasses import replace

from scheduler_svc.core.beams.params import BeamParams
from scheduler_svc.core.beams.search import Candidate
from scheduler_svc.core.policies import Limits
from scheduler_svc.core.state.commands import AddSequence, Advance, BatchItem, CheckIntegrity, Command, StartBatch
from scheduler_svc.core.state.ids import SeqId
from scheduler_svc.core.state.prompt_scores import PromptScores, ScoredTokens
from scheduler_svc.core.state.results import SampledToken, StepResult, WorkTiming
from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, StopConditions, Targets
from scheduler_svc.generation import GenerationRequest, ServedModel, TokenStream
from scheduler_svc.serving.engine import Engine
from scheduler_svc.serving.engine_settings import EngineSettings
from tests.support.service.fakes import served_model

MOST_STREAMS = 40
NO_TARGETS = Targets()
ANY = SamplingParams()
TIMING = WorkTiming(2, 80, 800, 100_000, 16, 160, 200_000, 1, MOST_STREAMS, 50_000)


class EngineBench:
    """An engine with a worker that has joined, unless `joins` is false.

    Attributes:
        steps: The steps that were sent and not answered.
        checks: The checks of memory that were sent.
    """

    def __init__(self, *, joins: bool = True, chunk_tokens: int = 4096, **settings: float) -> None:
        self.starts: dict[int, StartBatch] = {}
        self.steps: list[Advance] = []
        self.checks: list[CheckIntegrity] = []
        self.num_candidates: dict[int, int] = {}
        limits = Limits(max_num_seqs=MOST_STREAMS, ls_chunk_tokens=chunk_tokens, be_chunk_tokens=min(512, chunk_tokens))
        self.engine = Engine(EngineSettings(limits=limits, **settings), self._send, self._fail)  # type: ignore[arg-type]
        if joins:
            self.join()

    def join(self, model: ServedModel | None = None) -> None:
        """A worker joins."""
        self.lose_commands()
        self.engine.worker_joined(5, model or served_model(), [TIMING], 1)

    def lose_commands(self) -> None:
        """What was sent reaches nobody."""
        self.steps.clear()
        self.starts.clear()

    def lose(self) -> None:
        """The worker is gone."""
        self.lose_commands()
        self.engine.worker_lost("killed", died=True)

    def hand_over(self) -> None:
        """The worker goes in good order, and another one joins."""
        self.lose_commands()
        self.engine.worker_lost("it hands over", died=False)
        self.join()

    def running(self) -> list[int]:
        """Returns the ids of the sequences in the step that runs."""
        return [item.seq_id for batch_id in self.steps[0].batch_ids for item in self.starts[batch_id].items]

    def in_flight(self) -> set[int]:
        """Returns the ids of the sequences in all steps that were sent and not answered."""
        batches = (self.starts[batch_id] for step in self.steps for batch_id in step.batch_ids)
        return {item.seq_id for batch in batches for item in batch.items}

    def work(self, num_steps: int = 1000) -> None:
        """Answers steps until there are none, or so many."""
        for _ in range(num_steps):
            if self.steps:
                self.answer()

    def submit(
        self,
        name: str,
        max_tokens: int,
        request_class: RequestClass = RequestClass.LATENCY_SENSITIVE,
        *,
        targets: Targets = NO_TARGETS,
        deadline_s: float | None = None,
        beams: BeamParams | None = None,
        prompt: tuple[int, ...] = (3, 4, 5, 6),
        sampling: SamplingParams = ANY,
    ) -> TokenStream:
        """Submits a request, with a prompt of four tokens unless there is another."""
        asked = replace(self.request(name, max_tokens, request_class), prompt_token_ids=prompt, sampling=sampling)
        return self.engine.submit(replace(asked, targets=targets, deadline_s=deadline_s, beams=beams))

    def request(
        self, name: str, max_tokens: int, request_class: RequestClass = RequestClass.LATENCY_SENSITIVE
    ) -> GenerationRequest:
        """Returns a request with a prompt of four tokens."""
        return GenerationRequest(name, request_class, (3, 4, 5, 6), ANY, StopConditions(max_tokens))

    def answer(self) -> None:
        """The worker did the oldest step, to its end."""
        step = self.steps.pop(0)
        items = [item for batch_id in step.batch_ids for item in self.starts[batch_id].items]
        is_end = step.until.layer == served_model().core.num_layers
        sampling = [item for item in items if is_end and item.samples]
        tokens = tuple(
            self._sampled(seq_id, item.first_position + item.num_tokens)
            for item in sampling
            for seq_id in (item.seq_id, *item.also_sampled_ids)
        )
        scored = tuple(map(_scored, (item for item in items if is_end and item.scored_token_ids)))
        result = StepResult(step.command_id, step.until, 350_000, 0, tokens, (), TIMING, scored=scored)
        self.engine.step_result(result)

    def _sampled(self, seq_id: SeqId, place: int) -> SampledToken:
        """The token that says its place, or candidates of which the first does."""
        ids = range(place, place + self.num_candidates.get(seq_id, 0))
        candidates = tuple(Candidate(token_id, -0.5 - 0.1 * i, -0.5 - 0.1 * i) for i, token_id in enumerate(ids))
        return SampledToken(seq_id, place, -0.5, candidates=candidates)

    def _send(self, commands: abc.Sequence[Command]) -> None:
        self.num_candidates |= {c.seq_id: c.sampling.num_candidates for c in commands if isinstance(c, AddSequence)}
        self.starts |= {command.batch_id: command for command in commands if isinstance(command, StartBatch)}
        self.checks += [command for command in commands if isinstance(command, CheckIntegrity)]
        self.steps += [command for command in commands if isinstance(command, Advance)]

    def _fail(self, error: BaseException) -> None:
        raise error


def _scored(item: BatchItem) -> ScoredTokens:
    """Scores a prompt's tokens, each by its own place."""
    first, tokens = item.first_position + 1, item.scored_token_ids
    places = range(first, first + len(tokens))
    return ScoredTokens(item.seq_id, PromptScores(first, tokens, [-1.0 * place for place in places], [1] * len(tokens)))
