from qllm.client.bench.load.target import Ask, Chunk, Ending
from qllm.client.bench.load.workload import BE

from demo.apart_target import ApartTarget
from tests.unit.client.bench.fake_target import FakeTarget


async def test_no_request_can_be_answered_from_what_another_left_in_the_cache() -> None:
    inner = FakeTarget()
    target = ApartTarget(inner)
    asked_twice = Ask(BE, [1], 1, index=0)
    answers = [[item async for item in target.stream(asked_twice)] for _ in range(2)]
    assert answers == [[Chunk(1), Ending(1, 1, 3.0)]] * 2
    salts = {ask.cache_salt for ask in inner.asks}
    assert len(salts) == 2
    assert "" not in salts
