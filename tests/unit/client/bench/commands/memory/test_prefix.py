import asyncio
import json
from pathlib import Path

import pytest
from qllm.client.bench.commands.memory.prefix_run import Measuring
from qllm.client.bench.errors import TargetFailed
from qllm.client.bench.load.load import Load
from qllm.client.bench.options.prefix import PrefixOptions, PrefixPart

from tests.unit.client.bench.as_process import call
from tests.unit.client.bench.fake_openai import FakeOpenAI, completion
from tests.unit.client.bench.fake_target import FakeTarget
from tests.unit.client.bench.load.caching_target import CachingTarget

OPTIONS = PrefixOptions(prefix_tokens=60, own_tokens=4, pairs=3, rounds=2, vocab_size=10**6, requests=5)


class Quiet:
    def begin(self, phase: str, seconds: float | None = None) -> None:
        pass

    def update(self, elapsed_s: float, load: Load) -> None:
        pass


async def test_each_part_is_measured_with_sharing_and_without() -> None:
    run = await Measuring(CachingTarget(), OPTIONS, Quiet(), asyncio.Event()).run(list(PrefixPart))
    repeat, talk, system = (run.turns[part] for part in PrefixPart)
    hits = [turns["hit_percent"] for turns in repeat.by_label["repeated"]]
    assert hits == [pytest.approx(100 * 60 / 64)] * 3
    for turns in (talk, system):
        assert turns.labels == ["shared", "apart"]
        assert all(one["num_cached_tokens"] == 0 for one in turns.by_label["apart"])
        assert all(one["num_cached_tokens"] > 0 for one in turns.by_label["shared"])
    assert talk.by_label["shared"][0]["later_ttft_ms"] is not None
    assert system.by_label["shared"][0]["later_ttft_ms"] is None


async def test_a_stopped_measurement_keeps_what_was_measured() -> None:
    stop = asyncio.Event()
    stop.set()
    run = await Measuring(CachingTarget(), OPTIONS, Quiet(), stop).run(list(PrefixPart))
    assert run.turns == {}


async def test_a_server_that_fails_a_request_is_said() -> None:
    with pytest.raises(TargetFailed, match="the server fails a request: HTTP 400"):
        await Measuring(FakeTarget(failure="HTTP 400"), OPTIONS, Quiet(), asyncio.Event()).run([PrefixPart.REPEAT])


async def test_any_openai_server_is_measured_with_the_fields_that_it_knows(openai: FakeOpenAI, tmp_path: Path) -> None:
    openai.script = lambda body: completion(body["max_tokens"])
    file = tmp_path / "a.json"
    quick = "--pairs 2 --rounds 1 --prefix-tokens 20 --part repeat --part turns --no-apart --priority-field none"
    finished = await call("prefix", "--http", openai.url, *quick.split(), "--label", "theirs", "--json", str(file))
    assert finished.code == 0, finished.err
    assert "Conversations" in finished.out
    assert len({body.get("cache_salt") for body in openai.bodies}) == 1
    values = json.loads(file.read_text())
    assert (values["label"], list(values["parts"])) == ("theirs", ["repeat", "turns"])
    assert values["parts"]["repeat"]["ratios"]["repeated"]["ttft_ms"]["count"] == 2
    assert values["parts"]["turns"]["means"]["shared"]["hit_percent"] is None
