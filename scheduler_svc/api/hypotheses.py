"""Turns the texts that a beam search found into deltas, one for each, inside the one that ends the generation.

Pure: knows nothing of wire formats, sockets, time or the engine.
"""

from collections.abc import Callable
from dataclasses import replace

from scheduler_svc.api.deltas import Delta, DeltaBuilder
from scheduler_svc.generation import TokenEvent


def found(event: TokenEvent, new_builder: Callable[[], DeltaBuilder]) -> Delta:
    """Returns the delta of an event with hypotheses: the best one, with all of them in it.

    Args:
        event: The event, which is the only one of its generation.
        new_builder: Makes what builds the delta of one text.
    """
    deltas = []
    for one in event.hypotheses:
        delta = new_builder().step(TokenEvent(one.token_ids, one.logprobs, one.finish_reason, event.usage))
        deltas.append(replace(delta, score=one.score))
    best = deltas[0]
    finish = best.finish and replace(best.finish, usage=event.usage or best.finish.usage)
    return replace(best, finish=finish, hypotheses=tuple(deltas))
