"""The search drives a real load on a target that is a script: which requests fail depends on who else is there."""

import asyncio
import io

from qllm.client.bench.commands.goodput_run import search_server
from qllm.client.bench.errors import RequestFailed
from qllm.client.bench.load.target import Ask, Stream
from qllm.client.bench.load.workload import BE, LS
from qllm.client.bench.options.goodput import GoodputOptions
from qllm.client.bench.report.progress import ProgressBar
from qllm.client.bench.results.goodput import ServerGoodput
from qllm.client.bench.results.result_file import Provenance
from rich.console import Console

from tests.unit.client.bench.fake_target import FakeTarget

PROVENANCE = Provenance(("qllm-client",), "2026-01-02T03:04:05+00:00", {}, {})
# No machine is too slow for these: which requests keep their targets is up to the target alone.
OPTIONS = GoodputOptions(
    slo_ttft_to_idle=1e9,
    slo_tpot_ms=1e9,
    attainment=0.5,
    max_be_clients=8,
    ls_rate=100.0,
    ls_prompt_tokens=3,
    ls_max_tokens=2,
    be_prompt_tokens=3,
    be_max_tokens=4,
    seconds=0.2,
    warm_up=0.02,
    idle_requests=2,
)


class CrowdedTarget(FakeTarget):
    """Fails latency-sensitive requests while more best-effort ones than it bears are there."""

    def __init__(self, num_borne: int) -> None:
        super().__init__(step_s=0.01)
        self._num_borne = num_borne
        self._num_be = 0

    async def stream(self, ask: Ask) -> Stream:
        if ask.request_class is LS and self._num_be > self._num_borne:
            raise RequestFailed("HTTP 503", "too crowded")
        self._num_be += ask.request_class is BE
        try:
            async for item in super().stream(ask):
                yield item
        finally:
            self._num_be -= ask.request_class is BE


def terminal() -> Console:
    return Console(file=io.StringIO(), width=200)


async def search(
    target: FakeTarget, console: Console | None = None, stop: asyncio.Event | None = None
) -> ServerGoodput | None:
    with ProgressBar(console or terminal()) as bar:
        return await search_server(target, OPTIONS, PROVENANCE, bar, stop or asyncio.Event(), label="fake")


async def test_the_most_clients_that_a_server_bears_are_found() -> None:
    console = terminal()
    found = await search(CrowdedTarget(num_borne=5), console)
    assert found is not None
    assert [level.num_be_clients for level in found.levels] == [0, 1, 2, 4, 8, 6, 5]
    assert [level.holds for level in found.levels] == [True, True, True, True, False, False, True]
    assert found.best is not None
    assert found.best.num_be_clients in (4, 5)
    assert found.tokens_per_s > 0
    assert found.levels[4].failures["HTTP 503"] > 0
    assert found.messages == {"HTTP 503": "too crowded"}
    assert found.idle_ttft is not None
    assert found.idle_ttft.count == 2
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "fake, 8 BE clients: " in said
    assert "BE tokens/s; does not hold" in said


async def test_a_server_that_bears_no_client_has_no_goodput() -> None:
    found = await search(CrowdedTarget(num_borne=0))
    assert found is not None
    assert [level.num_be_clients for level in found.levels] == [0, 1]
    assert found.tokens_per_s == 0.0
    assert found.failed is not None
    assert found.failed.num_be_clients == 1


async def test_stopping_keeps_the_levels_that_were_found_by_then() -> None:
    stop = asyncio.Event()

    class StoppingTarget(CrowdedTarget):
        async def stream(self, ask: Ask) -> Stream:
            if self._num_be >= 2:
                stop.set()
            async for item in super().stream(ask):
                yield item

    found = await search(StoppingTarget(num_borne=8), stop=stop)
    assert found is not None
    assert found.is_interrupted
    assert [level.num_be_clients for level in found.levels][:2] == [0, 1]
    assert len(found.levels) <= 3


async def test_stopping_before_a_window_is_over_finds_nothing() -> None:
    stop = asyncio.Event()
    stop.set()
    assert await search(FakeTarget(), stop=stop) is None
