"""Decides whose caches leave the device so that another sequence has room, and where each goes. Changes nothing.

    candidates, first victim first ─▶ what each frees, until it is enough ─▶ [(victim, tier or given up)], or None

Source of the order (who waits longest goes out first) and of comparing a move with computing anew: ALISE, arXiv
2410.23537, as far as its abstract tells.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from scheduler_svc.core.cache.memory import Memory
from scheduler_svc.core.state.ids import BlockId
from scheduler_svc.core.state.sequence import Sequence, SequenceState, Tier


class Need(NamedTuple):
    """What is lacking on the device: blocks, places for states, and which blocks are of no use when they come free."""

    num_blocks: int
    num_states: int = 0
    wanted: Collection[BlockId] = ()

    @property
    def is_met(self) -> bool:
        """Whether nothing is lacking."""
        return self.num_blocks <= 0 and self.num_states <= 0


class Move(NamedTuple):
    """A victim, and where its cache goes; None: it is given up, and computed again."""

    sequence: Sequence
    tier: Tier | None


def choose(
    candidates: Iterable[Sequence],
    need: Need,
    memory: Memory,
    is_worth_moving: Callable[[Sequence], bool],
    *,
    may_release: bool = True,
    may_break_iterations: bool = False,
) -> list[Move] | None:
    """Returns whom to move, in order; None if all of them together would not do.

    Args:
        candidates: Who gives way, first victim first; each holds blocks on the device.
        need: What is lacking.
        memory: What there is.
        is_worth_moving: Whether bringing a cache out and back takes less than computing it again.
        may_release: Whether what is kept for a next turn may be given up, rather than moved.
        may_break_iterations: Whether one inside an iteration may be given up, with what the iteration did of it.
    """
    room, released, moves = dict(memory.num_free_by_tier), Counter[BlockId](), list[Move]()
    num_blocks, num_states = need.num_blocks, need.num_states
    may_give_up = {SequenceState.FINISHED: may_release, SequenceState.IN_BATCH: may_break_iterations}
    for victim in candidates:
        num_held, tier = len(victim.block_ids), None
        if is_worth_moving(victim):
            tier = next((each for each in Tier if num_held <= room[each]), None)
        if tier is not None:
            room[tier] -= num_held
        elif not may_give_up.get(victim.state, True):
            continue
        moves.append(Move(victim, tier))
        released.update(victim.block_ids)
        freed = (b for b in victim.block_ids if released[b] == memory.pool.num_holders(b) and b not in need.wanted)
        num_blocks -= sum(1 for _ in freed)
        num_states -= 1
        if num_blocks <= 0 and num_states <= 0:
            return moves
    return None
