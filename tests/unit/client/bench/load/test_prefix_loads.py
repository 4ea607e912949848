import pytest
from qllm.client.bench.errors import RequestFailed
from qllm.client.bench.load.memory.prefix_loads import PrefixLoads, SystemPrompt, Talk

from tests.unit.client.bench.fake_target import FakeTarget
from tests.unit.client.bench.load.caching_target import CachingTarget

TALK = Talk(num_conversations=2, num_turns=3, first_tokens=40, turn_tokens=10, max_tokens=5)
SYSTEM = SystemPrompt(num_requests=6, num_clients=2, system_tokens=50, own_tokens=8, max_tokens=3)


def loads(target: CachingTarget | FakeTarget) -> PrefixLoads:
    return PrefixLoads(target, 10**6, 0)


async def test_a_pair_begins_alike_and_no_two_pairs_do() -> None:
    target = CachingTarget()
    asked = loads(target)
    for _ in range(2):
        cold, repeated = await asked.repeat(40, 8)
        assert (cold.num_prompt_tokens, cold.num_cached_tokens, repeated.num_cached_tokens) == (48, 0, 40)


async def test_a_turn_repeats_all_that_was_said_before_it() -> None:
    target = CachingTarget()
    for answers in await loads(target).talk(TALK, 0, apart=False):
        assert [answer.num_prompt_tokens for answer in answers] == [40, 55, 70]
        assert [answer.num_cached_tokens for answer in answers] == [0, 45, 60]


async def test_a_conversation_goes_on_where_the_server_does_not_tell_its_tokens() -> None:
    target = CachingTarget(tells_tokens=False)
    for answers in await loads(target).talk(TALK, 0, apart=False):
        assert [answer.num_prompt_tokens for answer in answers] == [40, 55, 70]


async def test_all_requests_begin_with_the_system_prompt_and_none_is_asked_twice() -> None:
    target = CachingTarget()
    answers = await loads(target).share(SYSTEM, 0, apart=False)
    assert [answer.num_cached_tokens for answer in answers].count(50) >= 4
    prompts = [tuple(ask.prompt) for ask in target.asks]
    assert len({prompt[:50] for prompt in prompts}) == 1
    assert len(set(prompts)) == len(answers) == 6


async def test_what_is_kept_apart_finds_nothing() -> None:
    asked = loads(CachingTarget())
    talks = await asked.talk(TALK, 0, apart=True)
    shared = await asked.share(SYSTEM, 0, apart=True)
    assert {answer.num_cached_tokens for answer in [*shared, *talks[0], *talks[1]]} == {0}


async def test_loads_of_the_same_number_ask_for_the_same_and_others_for_nothing_alike() -> None:
    target = CachingTarget()
    asked = loads(target)
    for number, apart in ((0, False), (0, True), (1, False)):
        await asked.talk(TALK, number, apart=apart)
        await asked.share(SYSTEM, number, apart=apart)
    prompts = [tuple(ask.prompt) for ask in target.asks]
    each = len(prompts) // 3
    first, second, third = (sorted(prompts[at : at + each]) for at in range(0, 3 * each, each))
    assert first == second
    assert not {prompt[:8] for prompt in first} & {prompt[:8] for prompt in third}


async def test_a_request_that_fails_ends_the_load() -> None:
    with pytest.raises(RequestFailed, match="it was asked to"):
        await loads(FakeTarget(failure="HTTP 500")).talk(TALK, 0, apart=False)
