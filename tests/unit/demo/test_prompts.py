from qllm.client.bench.load.workload import BE, LS

from demo.prompts import DemoPrompts
from tests.unit.client.bench.fake_target import FakeTarget


def test_demo_prompts_are_fixed_by_seed_class_and_number() -> None:
    prompts = [DemoPrompts(1).draw(BE, index, 500) for index in range(20)]
    assert prompts == [DemoPrompts(1).draw(BE, index, 500) for index in range(20)]
    assert all(isinstance(prompt, str) and 250 < len(prompt) <= 500 for prompt in prompts)
    assert len(set(map(str, prompts))) == 20
    assert prompts != [DemoPrompts(2).draw(BE, index, 500) for index in range(20)]


def test_questions_are_the_same_whatever_their_length_is_asked_to_be() -> None:
    assert DemoPrompts(1).draw(LS, 3, 5) == DemoPrompts(2).draw(LS, 3, 500)
    assert len({DemoPrompts(1).draw(LS, index, 5) for index in range(12)}) == 12


async def test_no_server_changes_the_prompts() -> None:
    prompts = DemoPrompts(1)
    assert await prompts.fit(FakeTarget(), 10) == prompts
