"""The engine says why prompts that begin alike don't share what is cached: to operators, and in its log at start."""

import logging
from dataclasses import replace

import pytest

from tests.support.service.engine_bench import EngineBench
from tests.support.service.fakes import served_model

MODEL = served_model()
WITH_STATES = replace(MODEL, core=replace(MODEL.core, no_sharing_reason="its layers keep a state"))


async def test_prefixes_are_shared_unless_something_is_in_the_way(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert EngineBench().engine.no_sharing_reason == ""
    assert "prefixes_not_shared" not in caplog.text


async def test_a_model_that_cannot_share_is_named_as_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    bench = EngineBench()
    with caplog.at_level(logging.INFO):
        bench.engine.worker_joined(6, WITH_STATES, [], 1)
    assert bench.engine.no_sharing_reason == "its layers keep a state"
    assert "prefixes_not_shared epoch=0000000000000006 reason='its layers keep a state'" in caplog.text


async def test_the_operators_wish_comes_before_the_models_reason() -> None:
    bench = EngineBench(prefix_caching=False)
    bench.engine.worker_joined(6, WITH_STATES, [], 1)
    assert bench.engine.no_sharing_reason == "--no-prefix-caching"


async def test_before_the_first_worker_nothing_is_shared() -> None:
    bench = EngineBench(joins=False)
    assert bench.engine.no_sharing_reason == "no worker is connected"
