"""One request as the load saw it: a `RequestRecord` while it runs, and the `RequestRow` that is kept of it. Pure.

Every latency counts from the intended time, so that a request which this process sent late, or which a slow server made
others wait behind, is not flattered.
"""

from array import array
from dataclasses import dataclass, field
from itertools import pairwise

from qllm.client.bench.load.target import Chunk, Ending
from qllm.client.bench.load.workload import Lengths
from qllm.client.messages import RequestClass

DONE, UNFINISHED = "done", "unfinished"


@dataclass(slots=True)
class RequestRecord:
    """A request that runs, or has run. All times are seconds on the load's clock.

    Attributes:
        intended_s: When it should be sent.
        sent_s: When it was sent.
        chunk_times_s: When chunks came.
        chunk_tokens: How many tokens each of them brought.
        ended_s: When its last word came, it failed, or it was given up.
        outcome: `DONE`, `UNFINISHED` (also while it runs), or the kind of its failure.
        queue_ms: Its wait before any work, as the server says; None if it does not say.
    """

    request_class: RequestClass
    index: int
    intended_s: float
    lengths: Lengths
    sent_s: float
    chunk_times_s: "array[float]" = field(default_factory=lambda: array("d"))
    chunk_tokens: "array[int]" = field(default_factory=lambda: array("l"))
    ended_s: float | None = None
    outcome: str = UNFINISHED
    num_prompt_tokens: int | None = None
    queue_ms: float | None = None
    _is_exact: bool = True

    @property
    def num_tokens(self) -> int:
        """Tokens that have come so far."""
        return sum(self.chunk_tokens)

    @property
    def is_failed(self) -> bool:
        """Whether it ended in an error."""
        return self.outcome not in (DONE, UNFINISHED)

    @property
    def gaps_s(self) -> list[float]:
        """Times between two chunks; one that brings several tokens is one arrival."""
        return [later - earlier for earlier, later in pairwise(self.chunk_times_s)]

    def take(self, chunk: Chunk, now_s: float) -> None:
        """Notes tokens that have come."""
        self.chunk_times_s.append(now_s)
        self.chunk_tokens.append(chunk.num_tokens)
        self._is_exact = self._is_exact and chunk.is_exact

    def finish(self, ending: Ending, now_s: float) -> None:
        """Notes the complete answer; where tokens were estimated, the server's own count is spread over the chunks."""
        self.ended_s, self.outcome = now_s, DONE
        self.num_prompt_tokens, self.queue_ms = ending.num_prompt_tokens, ending.queue_ms
        if ending.num_tokens and not self.chunk_times_s:
            self.take(Chunk(ending.num_tokens), now_s)
        elif ending.num_tokens and not self._is_exact:
            self.chunk_tokens = array("l", _spread(ending.num_tokens, len(self.chunk_times_s)))

    def fail(self, kind: str, now_s: float) -> None:
        """Notes a failure."""
        self.ended_s, self.outcome = now_s, kind

    def give_up(self, now_s: float) -> None:
        """Notes that nobody waits for it any longer, unless it has ended."""
        if self.ended_s is None:
            self.ended_s = now_s

    def num_tokens_within(self, start_s: float, end_s: float) -> int:
        """Returns how many of its tokens came in [start, end)."""
        return sum(
            tokens
            for at_s, tokens in zip(self.chunk_times_s, self.chunk_tokens, strict=True)
            if start_s <= at_s < end_s
        )


@dataclass(frozen=True, slots=True)
class RequestRow:
    """What is kept of one request. Times are milliseconds; all but the first two count from the intended time.

    Attributes:
        at_ms: The intended time, from the start of the measuring window.
        lag_ms: How late this process sent it.
        total_ms: Until its end, whatever it was: last word, failure, or given up.
        ttft_ms: Until its first token; None if none came.
        last_token_ms: Until its last token; None if none came.
        max_gap_ms: Longest time between two of its chunks; None with fewer than two.
        queue_ms: Its wait before any work, as the server says; None if it does not say.
        num_prompt_tokens: Length of its prompt, as the server says or else as it was asked for.
        num_tokens: Tokens that came.
        outcome: `DONE`, `UNFINISHED`, or the kind of its failure.
    """

    request_class: RequestClass
    index: int
    at_ms: float
    lag_ms: float
    total_ms: float
    ttft_ms: float | None
    last_token_ms: float | None
    max_gap_ms: float | None
    queue_ms: float | None
    num_prompt_tokens: int
    num_tokens: int
    outcome: str

    @classmethod
    def of(cls, record: RequestRecord, window_start_s: float) -> "RequestRow":
        """Keeps what matters of a request that has ended or was given up."""
        times_s = record.chunk_times_s
        ended_s = record.ended_s if record.ended_s is not None else record.intended_s
        return cls(
            request_class=record.request_class,
            index=record.index,
            at_ms=_ms(record.intended_s - window_start_s),
            lag_ms=_ms(record.sent_s - record.intended_s),
            total_ms=_ms(ended_s - record.intended_s),
            ttft_ms=_ms(times_s[0] - record.intended_s) if times_s else None,
            last_token_ms=_ms(times_s[-1] - record.intended_s) if times_s else None,
            max_gap_ms=_ms(max(record.gaps_s)) if len(times_s) > 1 else None,
            queue_ms=None if record.queue_ms is None else round(record.queue_ms, 2),
            num_prompt_tokens=record.num_prompt_tokens or record.lengths.num_prompt_tokens,
            num_tokens=record.num_tokens,
            outcome=record.outcome,
        )

    @property
    def is_done(self) -> bool:
        """Whether the whole answer came."""
        return self.outcome == DONE

    @property
    def is_failed(self) -> bool:
        """Whether it ended in an error."""
        return self.outcome not in (DONE, UNFINISHED)

    @property
    def tpot_ms(self) -> float | None:
        """Mean time per token after the first; None with fewer than two tokens."""
        if self.ttft_ms is None or self.last_token_ms is None or self.num_tokens < 2:
            return None
        return (self.last_token_ms - self.ttft_ms) / (self.num_tokens - 1)


def _spread(num_tokens: int, num_chunks: int) -> list[int]:
    """Shares tokens out over chunks as evenly as whole numbers go, the first one never without."""
    ends = [-(-(number + 1) * num_tokens // num_chunks) for number in range(num_chunks)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 2)
