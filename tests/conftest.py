"""Tests that need a GPU are skipped where there is none, none depends on a fast machine, no proxy stands before local
servers, and Ctrl-C ends what it should.
"""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

for name in ("grpc_proxy", "http_proxy", "https_proxy", "all_proxy"):
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)


# A shell starts what it runs in the background with Ctrl-C ignored, and what that starts would ignore it too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


_ASYNCIO_SETTINGS = ("asyncio_mode", "asyncio_default_fixture_loop_scope")


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Lets a machine without pytest-asyncio read its settings: GPU tests do without, and strict settings refuse."""
    if not pluginmanager.hasplugin("asyncio"):
        for name in _ASYNCIO_SETTINGS:
            parser.addini(name, "a setting of pytest-asyncio, which is not installed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if not needing:
        return
    import torch

    if not torch.cuda.is_available():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
