"""A hundred hostile structures: each is refused at the door, or lives within bounds in the worker."""

import time
from random import Random

from llguidance import LLMatcher

from scheduler_svc.api.draft import StructureDraft
from scheduler_svc.api.structure import valid_grammar
from scheduler_svc.errors import InvalidRequest
from scheduler_svc.structure.grammar_checker import GrammarChecker
from tests.support.models.hostile_grammars import hostile_structures
from tests.support.models.sample_tokenizers import EOS_ID
from tests.support.service.fakes import served_model
from tests.support.worker.guided import allowed, guides, tokenizer

NUM_TOKENS = 60
# A neighbour on the machine may have its cores for a while, so times are bounded only by what would be a hang.
LONGEST_TRIAL_S, LONGEST_STEP_S = 15.0, 2.0
# Of those that may be refused or not, these must be: each ended its request in the worker once, or the worker itself.
TOLD_AT_THE_DOOR = {
    "schema: a thousand names that may be left out",
    "schema: patterns at once",
    "schema: itself",
    "regex: a million",
    "regex: sixty thousand",
    "regex: may be there five hundred times",
    "lark: two to the sixtieth",
    "lark: twice as many ways",
    "lark: fifty thousand times",
    "lark: five thousand rules",
}
# Large, and no trouble.
TAKEN = {"schema: four thousand words", "regex: words", "choices: four thousand", "schema: ten thousand characters"}

# What takes more only later ends its own request.
GROWING = {"regex: up to a million"}


async def tried(checker: GrammarChecker, structure: StructureDraft) -> str | InvalidRequest:
    """The grammar, or its refusal."""
    model = served_model()
    try:
        return await valid_grammar(structure, model, model.eos_token_ids, checker)
    except InvalidRequest as refusal:
        return refusal


def followed(grammar: str) -> str:
    """Follows a grammar by random tokens; returns the problem that it ended with, if there was one."""
    guide, random = guides().guide(grammar), Random(1)
    for _ in range(NUM_TOKENS):
        began_s = time.thread_time()
        choices = sorted(allowed(guide) - {EOS_ID})
        assert time.thread_time() - began_s < LONGEST_STEP_S
        if not choices:
            return guide.problem
        guide.accept(random.choice(choices))
    return guide.problem


def chain(length: int) -> str:
    """Rules that each are the next one."""
    rules = "\n".join(f"r{number}: r{number - 1}" for number in range(1, length))
    return LLMatcher.grammar_from_lark(f'start: r{length - 1}\nr0: "a"\n{rules}')


async def test_rules_of_rules_are_refused_long_before_they_are_too_deep_for_the_worker() -> None:
    checker = GrammarChecker(tokenizer().to_str().encode(), tokenizer().get_vocab_size(), (EOS_ID,))
    assert await checker.problem(chain(1000)) == ""
    assert "too much memory" in await checker.problem(chain(2000))
    checker.close()
    assert allowed(guides().guide(chain(4000)))  # a stack that is too small would end this process


async def test_a_hundred_hostile_structures_are_refused_or_bounded() -> None:
    structures = dict(hostile_structures())
    assert len(structures) >= 100
    checker = GrammarChecker(tokenizer().to_str().encode(), tokenizer().get_vocab_size(), (EOS_ID,))
    refused, taken = set[str](), dict[str, str]()
    for name, structure in structures.items():
        began_s = time.monotonic()
        result = await tried(checker, structure)
        assert time.monotonic() - began_s < LONGEST_TRIAL_S, name
        if isinstance(result, InvalidRequest):
            assert str(structure.kind) in result.field
            assert len(str(result)) < 600, name
            refused.add(name)
        else:
            taken[name] = result
    checker.close()
    assert refused >= TOLD_AT_THE_DOOR
    assert set(taken) >= TAKEN
    problems = {name: problem for name, grammar in taken.items() if (problem := followed(grammar))}
    assert set(problems) <= GROWING
