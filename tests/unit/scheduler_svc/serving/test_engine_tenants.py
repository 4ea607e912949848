"""The engine keeps tenants' requests apart: the same name is a request of each, and nobody finds another's cache."""

import pytest

from scheduler_svc.core.state.sequence import RequestClass, SamplingParams, StopConditions
from scheduler_svc.errors import DuplicateRequest
from scheduler_svc.generation import GenerationRequest, TokenStream
from tests.support.service.engine_bench import EngineBench

LS = RequestClass.LATENCY_SENSITIVE
PROMPT = tuple(range(3, 51))  # three blocks of 16


def submit(bench: EngineBench, name: str, tenant: str, salt: bytes = b"", max_tokens: int = 2) -> TokenStream:
    stop = StopConditions(max_tokens)
    request = GenerationRequest(name, LS, PROMPT, SamplingParams(), stop, cache_salt=salt, tenant=tenant)
    return bench.engine.submit(request)


def work(bench: EngineBench) -> None:
    while bench.steps:
        bench.answer()


async def test_a_tenant_can_not_take_anothers_name() -> None:
    bench = EngineBench()
    submit(bench, "one", "a")
    submit(bench, "one", "b")
    for tenant in ("a", "b"):
        with pytest.raises(DuplicateRequest):
            submit(bench, "one", tenant)
    work(bench)
    submit(bench, "one", "a")


async def test_an_abort_ends_the_tenants_own_request_and_no_other() -> None:
    bench = EngineBench()
    of_a, of_b = submit(bench, "one", "a", max_tokens=400), submit(bench, "one", "b", max_tokens=400)
    assert not bench.engine.abort("one", "c")
    assert bench.engine.abort("one", "b")
    assert [event.finish_reason async for event in of_b]
    assert not bench.engine.abort("one", "b")
    assert bench.engine.abort("one", "a")
    assert [event.finish_reason async for event in of_a]


async def test_an_abort_for_no_tenant_ends_all_that_are_called_so() -> None:
    bench = EngineBench()
    for tenant in ("a", "b"):
        submit(bench, "one", tenant, max_tokens=400)
    assert bench.engine.abort("one")
    assert not bench.engine.abort("one")


@pytest.mark.parametrize(("salt", "num_cached"), [(b"a\0", 32), (b"b\0", 0)])
async def test_a_prefix_is_found_by_its_own_tenant_only(salt: bytes, num_cached: int) -> None:
    bench = EngineBench()
    submit(bench, "first", "a", b"a\0")
    work(bench)
    second = submit(bench, "second", salt[:1].decode(), salt)
    work(bench)
    assert second.usage().num_cached_tokens == num_cached
