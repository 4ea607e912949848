"""One token stream from arrival to its last token, as the scheduler sees it: numbers, times and block ids.

Knows nothing of text, tensors or sockets.
"""

from dataclasses import dataclass, field
from enum import Enum

from scheduler_svc.core.state.ids import BlockId, SeqId
from scheduler_svc.core.state.kin import ALONE, Kin

# So many workers died while they ran one sequence and no other, with so many tokens: then it is to blame.
MOST_DEATHS_ALONE = 2


class RequestClass(Enum):
    """Who is waiting."""

    # Members are singletons; Enum's own hash is Python code, and these are looked up for every token.
    __hash__ = object.__hash__

    LATENCY_SENSITIVE = 1
    BEST_EFFORT = 2

    @property
    def words(self) -> str:
        """What callers know it as."""
        return self.name.lower().replace("_", "-")


class Phase(Enum):
    """What a sequence needs next."""

    __hash__ = object.__hash__  # as RequestClass

    PREFILL = 1
    DECODE = 2


class SequenceState(Enum):
    """Where a sequence is; it is in exactly one of these.

    QUEUED -> IN_BATCH -> QUEUED -> ... -> FINISHED. One of several (`kin`) may be HELD before it is QUEUED. Whatever it
    is, its cache may be offloaded; it is restored when it is picked for a batch, or its batch goes on.
    """

    QUEUED = 1
    IN_BATCH = 2
    FINISHED = 3
    HELD = 4  # waits for what others of its kin compute: nothing can be run of it now


class Tier(Enum):
    """Where the cache of an offloaded sequence lies."""

    __hash__ = object.__hash__  # as RequestClass

    HOST = 1
    DISK = 2


class FinishReason(Enum):
    """Why a sequence ended."""

    STOP = 1
    LENGTH = 2
    ABORTED = 3


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen; temperature 0 is greedy, top_k 0, top_p 1 and min_p 0 filter nothing.

    Attributes:
        repetition_penalty: Divides logits of tokens that prompt or output have; 1 leaves them.
        presence_penalty: Is taken from those of tokens that the output has.
        frequency_penalty: Is taken from them as often as the output has each.
        logit_bias: Tokens with what is added to their logits.
        allowed_token_ids: The only tokens that may be chosen; none: all may.
        bad_words: Tokens that must not follow one another.
        typical_p: Keeps the most typical tokens whose probability reaches this; 1 keeps all.
        num_top_logprobs: So many of the most probable tokens are told with each one.
        num_prompt_logprobs: So many are told with each token of the prompt; None: nothing is told of the prompt.
        grammar: What the text is kept to, as llguidance reads it; empty: nothing.
        num_candidates: So many of the best tokens are told instead of choosing one, which is then done by who reads
            them; 0: one is chosen.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    typical_p: float = 1.0
    num_top_logprobs: int = 0
    num_prompt_logprobs: int | None = None
    grammar: str = ""
    num_candidates: int = 0

    @property
    def looks_at_prompt(self) -> bool:
        """Whether the choice depends on which tokens the prompt has."""
        return self.repetition_penalty != 1

    @property
    def looks_at_output(self) -> bool:
        """Whether the choice depends on tokens that were generated before."""
        has_penalty = self.looks_at_prompt or self.presence_penalty != 0 or self.frequency_penalty != 0
        return has_penalty or bool(self.grammar) or any(len(word) > 1 for word in self.bad_words)


@dataclass(frozen=True, slots=True)
class StopConditions:
    """When a sequence ends, in tokens; `stop_token_ids` holds the model's own end tokens too unless ignored.

    With `max_tokens` 0 it ends once its prompt is computed.
    """

    max_tokens: int
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Targets:
    """What one request itself asks for, in seconds from its arrival and from token to token; None: the service's."""

    ttft_s: float | None = None
    tpot_s: float | None = None


@dataclass(frozen=True, slots=True)
class SessionTurn:
    """One turn of a program that comes again after a tool has run; the tool's name is empty if it is not known."""

    session_id: str
    expects_tool_call: str = ""
    last_turn: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What one sequence used: tokens, seconds, and times that it stood still inside an iteration.

    Attributes:
        num_cached_tokens: Tokens of the prompt that others had computed already.
    """

    num_prompt_tokens: int
    num_output_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    num_preemptions: int
    num_cached_tokens: int = 0


@dataclass(slots=True, eq=False)
class Sequence:
    """One token stream.

    Attributes:
        prompt_token_ids: The prompt; never empty.
        output_token_ids: Tokens generated so far.
        num_computed_tokens: Tokens whose K/V the worker holds.
        block_ids: Device blocks that hold them, in order; empty while offloaded.
        known_to_worker: Whether AddSequence was sent.
        effective_class: The class whose queue it stands in, which is the policy's choice.
        num_host_blocks: Blocks of `tier` that hold its cache while it is offloaded; else 0.
        targets: The times that the request itself asks for.
        deadline_s: When the caller gives up; None: never.
        ttft_s: How long after its arrival its first token is promised; 0: as soon as possible.
        tpot_s: How long after each token the next one is promised; 0: as soon as possible.
        due_s: When its next token is due.
        is_first_in_time: Whether its first token came in time.
        rides: Whether the iteration that it is in, or was in last, is of the other class's making.
        salt: Keeps its cache apart from sequences of another salt.
        session: The turn of a program that it is, if it is one.
        order_s: When the program arrived that it is a turn of, which gives it its place; None: its own arrival does.
        goes_ahead: Whether its program's cache was kept, within its time, when it arrived.
        num_cached_tokens: Tokens of the prompt that it found computed when it began.
        scored_up_to: Tokens of the prompt before this place were told how probable they are, where that is asked for.
        num_starts: How often it began from its first token; more than once where its cache was given up.
        num_lost_tokens: Tokens that were computed, or under way, when that was done last.
        is_exact: Whether its cache is what it computed, and did not come back from where it was kept in fewer bits.
        tier: Where its cache is while it is offloaded.
        block_digests: What its first full blocks are found by; see `cache.prefix_index`.
        num_known_blocks: So many of its blocks were computed and may be found.
        num_tokens_at_death: How many tokens it had when a worker died that was running it last; None: none did.
        num_deaths_alone: How many workers died while they ran this sequence alone, with so many tokens.
        kin: Decides what becomes of what is sampled for it, and whom that concerns besides.
    """

    seq_id: SeqId
    request_class: RequestClass
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    stop: StopConditions
    arrival_s: float
    output_token_ids: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    block_ids: list[BlockId] = field(default_factory=list)
    num_host_blocks: int = 0
    targets: Targets = Targets()
    deadline_s: float | None = None
    ttft_s: float = 0.0
    tpot_s: float = 0.0
    due_s: float = 0.0
    is_first_in_time: bool = True
    rides: bool = False
    salt: bytes = b""
    session: SessionTurn | None = None
    order_s: float | None = None
    goes_ahead: bool = False
    num_cached_tokens: int = 0
    scored_up_to: int = 1
    num_starts: int = 0
    num_lost_tokens: int = 0
    is_exact: bool = True
    tier: Tier = Tier.HOST
    block_digests: list[bytes] = field(default_factory=list)
    num_known_blocks: int = 0
    num_tokens_at_death: int | None = None
    num_deaths_alone: int = 0
    state: SequenceState = SequenceState.QUEUED
    known_to_worker: bool = False
    effective_class: RequestClass = RequestClass.LATENCY_SENSITIVE
    first_run_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    num_preemptions: int = 0
    kin: Kin = ALONE

    def __post_init__(self) -> None:
        self.effective_class = self.request_class

    @property
    def is_offloaded(self) -> bool:
        """Whether its cache is off the device."""
        return self.num_host_blocks > 0

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens together."""
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    @property
    def num_pending_tokens(self) -> int:
        """Tokens that are known but not computed: what the next iterations must run through the model."""
        return len(self.prompt_token_ids) + len(self.output_token_ids) - self.num_computed_tokens

    @property
    def phase(self) -> Phase:
        """DECODE when only the token sampled last is left to compute."""
        return Phase.DECODE if self.output_token_ids and self.num_pending_tokens == 1 else Phase.PREFILL

    @property
    def is_scored(self) -> bool:
        """Whether tokens of its prompt are still to be told how probable they are."""
        return self.sampling.num_prompt_logprobs is not None and self.scored_up_to < len(self.prompt_token_ids)

    @property
    def may_ride(self) -> bool:
        """Whether it may be taken along by an iteration that others wait for.

        One that is scored may not: all of its rows go through the head, and would take long. A suspect runs alone.
        """
        return not (self.is_suspect or self.is_scored)

    @property
    def num_reusable_tokens(self) -> int:
        """How many of its first tokens it may take from what others computed, at most.

        What follows its last token is sampled from that one's logits, and how probable a token is follows from those of
        the one before it: these are to be computed for itself.
        """
        return min(self.num_tokens, self.scored_up_to if self.is_scored else self.num_tokens) - 1

    def num_scored(self, start: int, num_tokens: int) -> int:
        """Counts the tokens of its prompt that an iteration scores which computes so many from a position on."""
        return max(0, min(start + num_tokens + 1, len(self.prompt_token_ids)) - start - 1) if self.is_scored else 0

    def samples(self, num_pending_tokens: int, num_tokens: int) -> bool:
        """Whether a token is sampled behind so many of its pending ones."""
        return num_tokens == num_pending_tokens and self.stop.max_tokens > 0

    @property
    def is_computed_whole(self) -> bool:
        """Whether nothing is left to do for one that generates nothing."""
        return not self.stop.max_tokens and not self.num_pending_tokens

    @property
    def ends_next(self) -> bool:
        """Whether its next token is the last one that it may have."""
        return len(self.output_token_ids) + 1 >= self.stop.max_tokens

    @property
    def num_tokens_ahead(self) -> int:
        """Tokens that it has before it in its phase: of the prompt to compute, or at most of the output to generate."""
        num_outputs = len(self.output_token_ids)  # `phase` and `num_pending_tokens` written out: asked for every token
        num_pending = len(self.prompt_token_ids) + num_outputs - self.num_computed_tokens
        return self.stop.max_tokens - num_outputs if num_outputs and num_pending == 1 else num_pending

    @property
    def is_suspect(self) -> bool:
        """Whether a worker died running it and it has not got past that token since: it then runs alone."""
        return self.num_tokens_at_death is not None and self.num_tokens_at_death == self.num_tokens

    @property
    def kills_workers(self) -> bool:
        """Whether workers died of it: nobody else can have been the reason."""
        return self.num_deaths_alone >= MOST_DEATHS_ALONE

    def note_death(self, *, was_alone: bool) -> None:
        """Takes in that the worker died while it ran this sequence; `was_alone`: and had no other to run next."""
        if not self.is_suspect:
            self.num_deaths_alone = 0
        self.num_deaths_alone += was_alone
        self.num_tokens_at_death = self.num_tokens

    def lose_worker(self) -> None:
        """Forgets all that a worker that is gone knew: it is to be computed again by another, from its first token."""
        self.num_lost_tokens = self.num_computed_tokens
        self.lose_cache()
        if self.state is SequenceState.IN_BATCH:
            self.state = SequenceState.QUEUED
        self.rides = False
        self.num_host_blocks = 0
        self.block_ids, self.block_digests = [], []
        self.tier = Tier.HOST

    def lose_cache(self) -> None:
        """Notes that no worker knows it, and nothing of it is computed; its blocks are another's to give up."""
        self.known_to_worker = False
        self.num_computed_tokens = self.num_known_blocks = 0
        self.is_exact = True

    def token_ids(self, start: int, stop: int) -> tuple[int, ...]:
        """Returns the tokens at positions start to stop - 1, of prompt and output laid end to end."""
        num_prompt = len(self.prompt_token_ids)
        if start >= num_prompt:
            return tuple(self.output_token_ids[start - num_prompt : stop - num_prompt])
        return self.prompt_token_ids[start:stop] + tuple(self.output_token_ids[: max(0, stop - num_prompt)])

    def due_after(self, token_s: float) -> float:
        """Returns when the token is due that follows one which comes at `token_s`.

        Token n is due n times `tpot_s` after the first one, so that a stream may spend what it is ahead. What it is
        late counts up to one `tpot_s`: more than that is not made up for at the cost of others.
        """
        if self.first_token_s is None:
            return token_s + self.tpot_s
        return max(self.due_s + self.tpot_s, token_s)

    def branch(self, seq_id: SeqId) -> "Sequence":
        """Returns another sequence that has all of this one's tokens, and holds nothing.

        It counts as begun: what it has to compute again was computed.
        """
        child = Sequence(
            seq_id,
            self.request_class,
            self.prompt_token_ids,
            self.sampling,
            self.stop,
            self.arrival_s,
            [*self.output_token_ids],
            targets=self.targets,
            deadline_s=self.deadline_s,
            ttft_s=self.ttft_s,
            tpot_s=self.tpot_s,
            due_s=self.due_s,
            salt=self.salt,
            order_s=self.order_s,
            goes_ahead=self.goes_ahead,
            scored_up_to=self.scored_up_to,
            num_starts=self.num_starts,
            num_lost_tokens=self.num_tokens,
            block_digests=[*self.block_digests],
            first_run_s=self.first_run_s,
            first_token_s=self.first_token_s,
            last_token_s=self.last_token_s,
            num_preemptions=self.num_preemptions,
            kin=self.kin,
        )
        child.effective_class = self.effective_class
        return child

    def append(self, token_id: int, now_s: float) -> None:
        """Adds a sampled token."""
        self.due_s = self.due_after(now_s)
        self.output_token_ids.append(token_id)
        self.last_token_s = now_s
        if self.first_token_s is None:
            self.first_token_s = now_s

    def usage(self, now_s: float) -> Usage:
        """Returns what it has used up to `now_s`."""
        first_run_s = now_s if self.first_run_s is None else self.first_run_s
        first_token_s = now_s if self.first_token_s is None else self.first_token_s
        last_token_s = first_token_s if self.last_token_s is None else self.last_token_s
        return Usage(
            num_prompt_tokens=len(self.prompt_token_ids),
            num_output_tokens=len(self.output_token_ids),
            queue_s=first_run_s - self.arrival_s,
            prefill_s=first_token_s - first_run_s,
            decode_s=last_token_s - first_token_s,
            num_preemptions=self.num_preemptions,
            num_cached_tokens=self.num_cached_tokens,
        )
