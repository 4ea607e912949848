"""Puts durable jobs together: the store that the settings name, and the runner that feeds its items to the engine."""

import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qllm.settings import SettingRefused

from scheduler_svc.api.grpc.items import generate_items
from scheduler_svc.api.jobs.items import ItemAnswers
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.jobs.interface import StoreRefused, StoreUnavailable
from scheduler_svc.jobs.item_worker import ItemWorker
from scheduler_svc.jobs.job import ItemKind
from scheduler_svc.jobs.pull import BestEffortLoad, Pull
from scheduler_svc.jobs.runner import JobRunner
from scheduler_svc.process.sole_use import InUse, sole_use
from scheduler_svc.security.gate import Gate
from scheduler_svc.security.grant import Grant
from scheduler_svc.serving.engine import Engine

if TYPE_CHECKING:
    from scheduler_svc.jobs.store.store import JobStore

_log = logging.getLogger(__name__)

_S_PER_DAY = 86400.0
_PART_OF_PLACES = 2  # of those for best-effort requests jobs take one in so many at most


def make_store(directory: Path | None, url: str | None, keep_days: float) -> "JobStore | None":
    """Returns the store of jobs at a URL, or in a directory; None if neither is given.

    Args:
        directory: Where it is unless there is a URL.
        url: Where it is.
        keep_days: For how long what is over is kept.

    Raises:
        SettingRefused: It can't be there, or packages are missing.
    """
    if directory is None and url is None:
        return None
    option = "--state-dir" if url is None else "--state-url"
    try:
        from scheduler_svc.jobs.store.store import JobStore
    except ModuleNotFoundError as error:
        raise SettingRefused(
            f"{option}: durable jobs need packages of an extra: pip install 'qllm[jobs]' ({error})"
        ) from None
    with _refusing(option):
        if url is not None:
            return JobStore.at_url(url, keep_s=keep_days * _S_PER_DAY)
        return None if directory is None else JobStore.in_directory(directory, keep_s=keep_days * _S_PER_DAY)


@contextlib.asynccontextmanager
async def opened(store: "JobStore", directory: Path | None) -> AsyncIterator[None]:
    """Opens a store, and closes it at the end.

    Args:
        store: It.
        directory: Where it is, which is then this process's alone; None: in a database that others use too, and that
            may come back by itself, so that the service starts without it.

    Raises:
        SettingRefused: It can't be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        if directory is None:
            await _open_shared(store)
        else:
            stack.enter_context(_kept_to_this_process(directory))
            await _open_own(store)
        yield


async def _open_shared(store: "JobStore") -> None:
    try:
        with _refusing("--state-url"):
            await store.open()
    except StoreUnavailable as error:
        _log.error("job_store_unavailable reason=%r", str(error))


async def _open_own(store: "JobStore") -> None:
    """Opens a store that nobody else uses: items that ran when its last owner was killed are free at once."""
    try:
        with _refusing("--state-dir"):
            await store.open()
        if num_left := await store.end_leases():
            _log.info("items_left_by_earlier_life num=%d", num_left)
    except StoreUnavailable as error:
        raise SettingRefused(f"--state-dir: {error}") from None


@contextlib.contextmanager
def _kept_to_this_process(directory: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(sole_use(directory))
        except InUse:
            raise SettingRefused(
                f"--state-dir: got {directory}, which another scheduler uses; several can share a --state-url"
            ) from None
        except OSError as error:
            raise SettingRefused(f"--state-dir: got {directory}, which cannot be written: {error.strerror}") from None
        yield


def make_runner(
    store: "JobStore", engine: Engine, texts: TextGenerator, gate: Gate | None, ahead_s: float, max_be_requests: int
) -> JobRunner:
    """Returns what feeds items of the store to the engine.

    Args:
        store: Where items are.
        engine: Runs them, and says how much best-effort work it has.
        texts: The engine's text side.
        gate: Knows the tenants' quotas; None: there are none.
        ahead_s: Items are taken while a further best-effort request would begin within so many seconds.
        max_be_requests: The most best-effort requests that the engine takes.
    """
    pull = Pull(ahead_s, max(1, max_be_requests // _PART_OF_PLACES))
    worker = _item_worker(texts, Grant if gate is None else gate.items_grant)
    runner = JobRunner(store, worker, _load_of(engine), pull, _new_owner(), time.monotonic)
    store.listen(runner.wake, runner.renew_now, lambda status, number: engine.note_items_ended(status.value, number))
    return runner


def _item_worker(texts: TextGenerator, grant_of: Callable[[str], Grant]) -> ItemWorker:
    """Returns what computes items of all kinds that this installation knows."""
    by_kind = {ItemKind.GENERATE: generate_items(texts)}
    with contextlib.suppress(ModuleNotFoundError):  # the extra http
        from scheduler_svc.api.openai.batches.items import json_items

        by_kind |= json_items(texts)
    return ItemAnswers(by_kind, grant_of)


def _load_of(engine: Engine) -> Callable[[], BestEffortLoad]:
    def load() -> BestEffortLoad:
        wait_s = engine.best_effort_wait_s()
        return BestEffortLoad(is_ready=wait_s is not None, wait_s=wait_s or 0.0)

    return load


def _new_owner() -> str:
    """Names this life of this scheduler: for operators the machine and the process, and for all time by chance."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def _refusing(option: str) -> Iterator[None]:
    try:
        yield
    except StoreRefused as refusal:
        raise SettingRefused(f"{option}: {refusal}") from None
