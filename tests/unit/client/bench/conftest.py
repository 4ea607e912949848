"""A server that is a script, on a free port."""

from collections.abc import AsyncIterator

import pytest

from tests.unit.client.bench.fake_openai import FakeOpenAI


@pytest.fixture
async def openai() -> AsyncIterator[FakeOpenAI]:
    fake = FakeOpenAI()
    server = await fake.start()
    yield fake
    server.close()
