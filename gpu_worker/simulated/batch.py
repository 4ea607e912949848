"""A sequence and a batch of a model that is not there: what they hold between commands, and what tokens come out.

Tokens are a function of what a language model's are: of all tokens before them, which a checksum stands for, and of the
seed unless they are chosen greedily. So a sequence that is computed again, or by another worker, or from what others
computed, goes on as it would have.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from zlib import crc32

from gpu_worker.contract.results import Candidate, FinishReason, SampledToken, ScoredTokens
from gpu_worker.cursor import Cursor, Stage

_GOLDEN = 0x9E3779B1  # spreads consecutive positions over 32 bits
_SEEDS = 0x85EBCA77  # spreads consecutive seeds
_MASK_32 = 2**32 - 1
_STEP = 0.25  # by which each candidate is less probable than the one before
_START = Cursor(0)


@dataclass(slots=True, eq=False)
class SimulatedSequence:
    """One sequence as the worker knows it.

    Attributes:
        seq_id: The scheduler's id.
        seed: Of its choices, 0 for a greedy one.
        stop_ids: Tokens that end it.
        max_tokens: Tokens that it generates in all.
        min_tokens: Tokens that must be generated before a stop token may be chosen.
        num_output_tokens: Tokens generated so far, by other workers too.
        context: Checksum of the tokens that are cached.
        block_contexts: What it was at the end of each full block.
        num_cached: How many tokens are cached.
        last_token: The token sampled last, which the next iteration may begin with.
        finish_reason: Why it ended, None while it goes on.
        batch_id: The suspended batch that it is in, if any.
        num_candidates: So many candidates are told instead of choosing a token; 0: one is chosen.
        awaits_choice: Whether its next token is one that the scheduler chooses, from candidates that it was told.
        is_dropped: Whether the scheduler gave it up.
    """

    seq_id: int
    seed: int
    stop_ids: frozenset[int]
    max_tokens: int
    min_tokens: int
    num_output_tokens: int
    context: int = 0
    block_contexts: list[int] = field(default_factory=list)
    num_cached: int = 0
    last_token: int | None = None
    finish_reason: FinishReason | None = None
    batch_id: int | None = None
    num_candidates: int = 0
    awaits_choice: bool = False
    is_dropped: bool = False

    def find(self, block_contexts: Sequence[int], block_size: int) -> None:
        """Begins with full blocks that others computed."""
        self.block_contexts = list(block_contexts)
        self.context = self.block_contexts[-1] if block_contexts else 0
        self.num_cached = len(block_contexts) * block_size

    def fork_from(self, parent: "SimulatedSequence") -> None:
        """Has cached what another one has."""
        self.context, self.block_contexts, self.num_cached = parent.context, [*parent.block_contexts], parent.num_cached

    def compute(self, token_ids: Sequence[int], block_size: int) -> None:
        """Takes tokens into the cache."""
        tokens, begin = array("i", token_ids), 0
        while begin < len(tokens):
            end = begin + block_size - self.num_cached % block_size  # of the block
            self.context = crc32(tokens[begin:end].tobytes(), self.context)
            self.num_cached += len(tokens[begin:end])
            if not self.num_cached % block_size:
                self.block_contexts.append(self.context)
            begin = end

    def void(self) -> None:
        """Forgets what is cached."""
        self.find((), 1)

    def sample(
        self, vocabulary: Sequence[int], logprob: float, after: "SimulatedSequence | None" = None
    ) -> SampledToken:
        """Chooses the next token, each of the vocabulary as probable, and notes whether the sequence ends with it.

        Args:
            vocabulary: What there is to choose from.
            logprob: Of each.
            after: The sequence whose cached tokens it follows; None: its own.
        """
        context = self if after is None else after
        if self.num_candidates:
            return self._rank(vocabulary, context)
        token_id = self._choose(vocabulary, context)
        self.num_output_tokens += 1
        self.last_token = token_id
        self.finish_reason = FinishReason.of(token_id, self.stop_ids, self.num_output_tokens, self.max_tokens)
        return SampledToken(self.seq_id, token_id, logprob, self.finish_reason)

    def score(self, token_ids: Sequence[int], logprob: float) -> ScoredTokens:
        """Tells how probable the tokens behind what is cached are: each as probable, without alternatives."""
        num_tokens = len(token_ids)
        logprobs, ranks = [logprob] * num_tokens, [1] * num_tokens
        return ScoredTokens(self.seq_id, self.num_cached + 1, token_ids, logprobs, ranks)

    def begins_with(self, token_ids: Sequence[int]) -> None:
        """Takes in what an iteration computes: a token that was chosen elsewhere, if one is awaited."""
        if self.awaits_choice:
            self.awaits_choice = False
            self.num_output_tokens += 1

    def _rank(self, vocabulary: Sequence[int], after: "SimulatedSequence") -> SampledToken:
        """Tells candidates, each a little less probable than the one before, and takes none in."""
        self.awaits_choice = True
        first, size = self._place(len(vocabulary), after), len(vocabulary)
        early = self.num_output_tokens < self.min_tokens
        rotated = (vocabulary[(first + shift) % size] for shift in range(size))
        ids = [token_id for token_id in rotated if not (early and token_id in self.stop_ids)][: self.num_candidates]
        # Texts differ in what they are worth, or all beams would go on from one.
        logprobs = [-_STEP * (1 + place) - _STEP / (2 + (first + place) % 7) for place in range(len(ids))]
        told = tuple(Candidate(*one) for one in zip(ids, logprobs, logprobs, strict=True))
        return SampledToken.undecided(self.seq_id, told)

    def _place(self, size: int, after: "SimulatedSequence") -> int:
        return (after.context ^ self.seed * _SEEDS ^ after.num_cached * _GOLDEN & _MASK_32) % size

    def _choose(self, vocabulary: Sequence[int], after: "SimulatedSequence") -> int:
        first = self._place(len(vocabulary), after)
        if self.num_output_tokens >= self.min_tokens or vocabulary[first] not in self.stop_ids:
            return vocabulary[first]
        rotated = (vocabulary[(first + shift) % len(vocabulary)] for shift in range(1, len(vocabulary)))
        return next((token_id for token_id in rotated if token_id not in self.stop_ids), vocabulary[first])


@dataclass(slots=True, eq=False)
class Part:
    """A sequence's part in an iteration.

    Attributes:
        sequence: The sequence.
        token_ids: The tokens that are computed.
        samples: Whether it samples a token when the iteration ends.
        scored_token_ids: The tokens behind its first ones, whose probabilities are told then.
        also_sampled: Sequences that have their first token from the same logits.
    """

    sequence: SimulatedSequence
    token_ids: Sequence[int]
    samples: bool
    scored_token_ids: Sequence[int] = ()
    also_sampled: Sequence[SimulatedSequence] = ()

    @property
    def samplers(self) -> list[SimulatedSequence]:
        """The sequences that have a token from its logits."""
        if not self.samples:
            return []
        return [self.sequence, *(one for one in self.also_sampled if not one.is_dropped)]


@dataclass(slots=True, eq=False)
class SimulatedBatch:
    """An iteration under way.

    Attributes:
        batch_id: The scheduler's id.
        parts: Its sequences, without those that were dropped, or had ended before it began.
        num_rows: Rows of logits at its end.
        cursor: Where it stands.
        num_tokens: Tokens of its parts.
        num_pairs: Query-key pairs of its parts: tokens times context.
    """

    batch_id: int
    parts: list[Part]
    num_rows: int
    cursor: Cursor = _START
    num_tokens: int = field(init=False)
    num_pairs: int = field(init=False)

    def __post_init__(self) -> None:
        self.count()

    @property
    def live_seq_ids(self) -> list[int]:
        """The sequences of its parts."""
        return [part.sequence.seq_id for part in self.parts]

    def count(self) -> None:
        """Counts tokens and pairs anew."""
        sizes = [(len(part.token_ids), part.sequence.num_cached) for part in self.parts]
        self.num_tokens = sum(num_tokens for num_tokens, _ in sizes)
        self.num_pairs = sum(num_tokens * (num_cached + num_tokens) for num_tokens, num_cached in sizes)


@dataclass(frozen=True, slots=True)
class Routing:
    """Which expert gets how many tokens of a batch: evenly, dealt out from an expert that differs from layer to layer.

    Attributes:
        num_layers: Decoder layers.
        num_experts: Experts of each.
        num_chosen: Experts chosen for each token.
    """

    num_layers: int
    num_experts: int
    num_chosen: int

    def num_tokens(self, batch: SimulatedBatch, layer: int, expert: int) -> int:
        """Returns the number of a batch's tokens that go to an expert."""
        for_all, for_some = divmod(batch.num_tokens * self.num_chosen, self.num_experts)
        return for_all + ((expert - layer * self.num_chosen) % self.num_experts < for_some)

    def num_runs(self, batch: SimulatedBatch) -> int:
        """Returns the number of experts of a layer that get any token of a batch."""
        return min(batch.num_tokens * self.num_chosen, self.num_experts)

    def next_with_tokens(self, batch: SimulatedBatch, layer: int, expert: int) -> Cursor:
        """Returns the place of the first expert with tokens from `expert` on; the stage's end if there is none."""
        while expert < self.num_experts and not self.num_tokens(batch, layer, expert):
            expert += 1
        return Cursor(layer, Stage.EXPERTS, expert)

    @property
    def end(self) -> Cursor:
        """Where an iteration is over."""
        return Cursor(self.num_layers)
