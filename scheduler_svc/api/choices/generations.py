"""Generations that are choices of prompts: made of one that was prepared, begun all or none, and read together."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import replace

from scheduler_svc.api.choices.merging import merged
from scheduler_svc.api.choices.plan import ChoicePlan
from scheduler_svc.api.deltas import Delta, joined
from scheduler_svc.api.draft import Draft
from scheduler_svc.api.sampling import require_prompt_numbers
from scheduler_svc.api.text_generation import PreparedGeneration, TextGeneration, TextGenerator


def choices_of(prepared: PreparedGeneration, num_choices: int) -> list[PreparedGeneration]:
    """Returns generations of one prompt and one id, of which the first is the one that was prepared.

    They must differ, and do so in the same way each time: choice i draws as a request with the seed `seed ^ i`.
    """
    request, sampling = prepared.request, prepared.request.sampling
    seeds = (sampling.seed ^ index for index in range(1, num_choices))
    further = (replace(prepared, request=replace(request, sampling=replace(sampling, seed=seed))) for seed in seeds)
    return [prepared, *further]


async def begin_choices(texts: TextGenerator, draft: Draft, plan: ChoicePlan) -> list[TextGeneration]:
    """Begins the generations of one prompt; raises ServiceError if one is refused, and then nothing was queued."""
    prepared = choices_of(await texts.prepare(draft), plan.num_generations)
    require_prompt_numbers(sum(one.num_prompt_numbers for one in prepared))
    return submit_all(texts, prepared, plan.num_generations)


def submit_all(
    texts: TextGenerator, prepared: Sequence[PreparedGeneration], num_per_prompt: int
) -> list[TextGeneration]:
    """Submits all, those of one prompt together, or raises ServiceError and leaves none."""
    submitted: list[TextGeneration] = []
    with ExitStack() as undo:
        for start in range(0, len(prepared), num_per_prompt):
            generations = texts.submit_choices(prepared[start : start + num_per_prompt])
            for generation in generations:
                undo.callback(generation.close)
            submitted += generations
        undo.pop_all()
    return submitted


async def choice_deltas(
    plan: ChoicePlan, generations: Sequence[TextGeneration]
) -> AsyncGenerator[tuple[int, Delta], None]:
    """Yields what is new in which of one prompt's choices, as it comes or, where it takes all of it, at the end.

    Raises:
        ServiceError: One of the generations can't be finished.
    """
    parts: list[list[Delta]] = [[] for _ in generations]
    async with aclosing(merged(generations)) as arriving:
        async for index, arrived in arriving:
            delta = _without_own_cache(arrived, generations[0])
            if plan.is_known_at_the_end:
                parts[index].append(delta)
            else:
                yield index, delta
    if plan.is_known_at_the_end:
        for place, whole in enumerate(plan.chosen([joined(one) for one in parts])):
            yield place, whole


def _without_own_cache(delta: Delta, first: TextGeneration) -> Delta:
    """Returns a delta whose usage leaves out what the first choice computed for the others, which find it cached."""
    if delta.finish is None or delta.finish.usage.num_cached_tokens <= first.num_cached_tokens:
        return delta
    usage = replace(delta.finish.usage, num_cached_tokens=first.num_cached_tokens)
    return replace(delta, finish=replace(delta.finish, usage=usage))
