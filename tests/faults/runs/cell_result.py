"""A cell of the fault matrix, and what became of it."""

from collections import Counter
from dataclasses import dataclass, field

from tests.faults.checker.verdict import Flaw, Outcome, Verdict
from tests.faults.harness.faults import Fault
from tests.faults.harness.moments import Moment
from tests.faults.records import Record

_TOLD_RECORDS = 3
# There is nothing to cancel, and nobody who could begin to read.
_SENSELESS = ("cancels@idle", "slow-readers@loading", "slow-readers@draining")


@dataclass(frozen=True, slots=True)
class Cell:
    """A fault at a moment."""

    fault: Fault
    moment: Moment

    @property
    def name(self) -> str:
        """FAULT@MOMENT."""
        return f"{self.fault.name}@{self.moment.name}"

    @property
    def makes_sense(self) -> bool:
        """Whether there is such a cell."""
        if self.name in _SENSELESS:
            return False
        # A worker that is started by itself is not started again when it has been killed.
        return not (self.fault.on_control and self.moment.name == "loading")

    @property
    def exit_codes(self) -> set[int]:
        """What the scheduler may end with; empty: it does not end."""
        return set(self.fault.exit_codes) | ({0} if self.moment.drains else set())


@dataclass(slots=True)
class CellResult:
    """What became of a cell.

    Attributes:
        name: FAULT@MOMENT.
        skipped: Why it could not be had; empty: it was.
        outcomes: How many requests ended how.
        flaws: How often what was wrong.
        num_jobs: Jobs that were accepted.
        detect_s: From the fault to the first sign of it; None: there was none.
        serve_again_s: From the fault to the first token of a new request; None: none came within the bound.
        problems: What was wrong with the service itself.
        examples: Some flawed records, in words.
    """

    name: str
    skipped: str = ""
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    flaws: Counter[Flaw] = field(default_factory=Counter)
    num_jobs: int = 0
    detect_s: float | None = None
    serve_again_s: float | None = None
    problems: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was wrong."""
        return not self.flaws and not self.problems

    def add(self, record: Record, verdict: Verdict, fault_s: float) -> None:
        """Counts a record."""
        self.outcomes[verdict.outcome] += 1
        self.flaws.update(verdict.flaws)
        if verdict.flaws and len(self.examples) < _TOLD_RECORDS:
            self.examples.append(in_words(record, verdict, fault_s))


def in_words(record: Record, verdict: Verdict, fault_s: float) -> str:
    """Returns a flawed record in a line; times are from the fault."""
    ended = "never ended" if record.ended_s is None else f"ended at {record.ended_s - fault_s:+.2f} s"
    got = f"{len(record.token_ids)} of {record.plan.num_tokens} tokens in {len(record.messages)} messages"
    sent = f"sent at {record.sent_s - fault_s:+.2f} s"
    flaws = ", ".join(verdict.flaws)
    return f"{flaws}: {record.plan.request_class} {sent}, {got}, {ended} with {record.status} {record.details!r}"
