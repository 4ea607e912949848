"""Runs one item of a job for the runner: whatever its body is, as best-effort work, from where it stood.

    claim ──body's kind──▶ draft ──as_item──▶ generation ──deltas──▶ ProgressNotes ──▶ the runner's notes
                                                  └── whole answer ──▶ ItemOutcome

What bodies look like, and answers, is known to the two APIs. Knows nothing of leases.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

from scheduler_svc.api.deltas import Delta
from scheduler_svc.api.draft import Draft, TargetsDraft
from scheduler_svc.api.jobs.errors import ItemAborted, KindNotServed
from scheduler_svc.api.text_generation import PreparedGeneration
from scheduler_svc.caller import set_caller
from scheduler_svc.core.state.sequence import FinishReason, RequestClass
from scheduler_svc.jobs.job import Claim, ItemKind, ItemOutcome, ItemStatus, Progress
from scheduler_svc.process.panics import ENDINGS, LibraryPanic
from scheduler_svc.security.grant import Grant, act_for

_SEED_BYTES = 8
# A seed is signed on its way.
_MAX_SEED = (1 << 63) - 1


class ProgressNotes:
    """Tells what an item has: once it is queued, and after each delta but the last, after which there is an outcome.

    Args:
        on_progress: Is told.
    """

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self._on_progress = on_progress
        self._model = ""
        self._token_ids: list[int] = []
        self._logprobs: list[float] = []

    def queued(self, progress: Progress) -> None:
        """The item is queued; `progress` is what it goes on from, on the model that it names."""
        self._model = progress.model
        self._on_progress(progress)

    def add(self, delta: Delta) -> None:
        """Takes the next delta, that of an earlier attempt included; raises ItemAborted if somebody ended the item."""
        require_not_aborted(delta)
        if delta.finish is None and delta.token_ids:
            self._token_ids += delta.token_ids
            self._logprobs += delta.logprobs
            self._on_progress(Progress(tuple(self._token_ids), tuple(self._logprobs), self._model))


def require_not_aborted(delta: Delta) -> None:
    """Raises ItemAborted if a generation ended because somebody ended it."""
    if delta.finish is not None and delta.finish.reason is FinishReason.ABORTED:
        raise ItemAborted


AnswerItem: TypeAlias = Callable[[Claim, ProgressNotes], Awaitable[bytes]]
"""Returns the answer's body; raises ServiceError where there is none."""


class ItemAnswers:
    """Runs items; the runner's ItemWorker.

    Args:
        by_kind: Runs items of each kind that this service knows.
        grant_of: Says with which rights items of a tenant run.
    """

    def __init__(self, by_kind: Mapping[ItemKind, AnswerItem], grant_of: Callable[[str], Grant] = Grant) -> None:
        self._by_kind = by_kind
        self._grant_of = grant_of

    async def run(self, claim: Claim, on_progress: Callable[[Progress], None]) -> ItemOutcome:
        """Runs an item to its end; cancelling this ends its work.

        Raises:
            ServiceError: It can't be run, now or at all, as its status says.
        """
        act_for(self._grant_of(claim.tenant))
        set_caller(f"jobs of {claim.tenant}")
        try:
            body = await self._answer(claim, ProgressNotes(on_progress))
        except ItemAborted as aborted:
            return ItemOutcome(status=ItemStatus.CANCELLED, error_code=aborted.status.name, error_message=str(aborted))
        except (Exception, *ENDINGS):
            raise
        except BaseException as panic:
            raise LibraryPanic(type(panic).__name__) from panic
        return ItemOutcome(status=ItemStatus.SUCCEEDED, body=body)

    async def _answer(self, claim: Claim, notes: ProgressNotes) -> bytes:
        answer = self._by_kind.get(claim.kind)
        if answer is None:
            raise KindNotServed(claim.kind)
        return await answer(claim, notes)


def resumed(prepared: PreparedGeneration, progress: Progress) -> tuple[PreparedGeneration, Progress]:
    """Returns a generation as it goes on, and from what: from its start if the tokens are another model's."""
    model = prepared.model.identity
    if progress.model != model:
        return prepared, Progress(model=model)
    return prepared.resumed(progress.token_ids, progress.logprobs), progress


def item_id(claim: Claim) -> str:
    """Returns what an item is called in its answer, whichever attempt gives it."""
    return f"{claim.job_id}-{claim.position}"


def as_item(draft: Draft, claim: Claim, number: int = 0) -> Draft:
    """Returns what a draft asks for as work of a job: best-effort, without a hurry, the same at each attempt.

    Args:
        draft: What the item's body asks for.
        claim: The item.
        number: Which of the item's prompts it has.
    """
    sampling = draft.sampling
    if sampling.seed is None:
        sampling = replace(sampling, seed=_seed(claim) ^ number)
    return replace(
        draft,
        # An attempt that was lost may still be ending when the next one begins.
        request_id=f"{item_id(claim)}-{number}-{claim.attempt}",
        request_class=RequestClass.BEST_EFFORT,
        targets=TargetsDraft(),
        deadline_s=None,
        sampling=sampling,
    )


def _seed(claim: Claim) -> int:
    """Returns what sampling begins with where the item does not say: tokens of two attempts must fit together."""
    digest = hashlib.sha256(item_id(claim).encode()).digest()
    return int.from_bytes(digest[:_SEED_BYTES]) & _MAX_SEED
