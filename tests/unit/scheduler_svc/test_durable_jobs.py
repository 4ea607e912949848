"""What a service is told about durable jobs is refused before it serves, or else it serves."""

import sys
from pathlib import Path

import pytest
from qllm.settings import SettingRefused

from scheduler_svc.durable_jobs import make_store, opened
from scheduler_svc.jobs.store.store import JobStore
from tests.support.jobs.new_jobs import added, claimed, keys

NOWHERE = "postgresql://qllm@/qllm?host=/nowhere"


def store_in(directory: Path) -> JobStore:
    store = make_store(directory, None, 30.0)
    assert store is not None
    return store


def test_without_a_place_there_is_no_store() -> None:
    assert make_store(None, None, 30.0) is None


@pytest.mark.parametrize(("url", "option"), [(None, "--state-dir"), (NOWHERE, "--state-url")])
def test_a_missing_package_is_said_with_the_extra_that_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str | None, option: str
) -> None:
    monkeypatch.setitem(sys.modules, "scheduler_svc.jobs.store.store", None)
    with pytest.raises(SettingRefused, match=rf"^{option}: .* pip install 'qllm\[jobs\]'"):
        make_store(tmp_path, url, 30.0)


def test_a_url_of_something_else_is_refused() -> None:
    with pytest.raises(SettingRefused, match=r"^--state-url: .*allowed"):
        make_store(None, "mysql://somewhere/qllm", 30.0)


async def test_a_database_that_is_away_keeps_no_service_from_starting(caplog: pytest.LogCaptureFixture) -> None:
    store = make_store(None, NOWHERE, 30.0)
    assert store is not None
    async with opened(store, None):
        assert "job_store_unavailable" in caplog.text


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite3").write_bytes(b"something else, which is long enough to be looked at" * 100)
    with pytest.raises(SettingRefused, match=r"^--state-dir: .*not a database"):
        async with opened(store_in(tmp_path), tmp_path):
            pass


async def test_what_an_earlier_life_held_in_the_directory_is_free_at_once(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    job_id = await added(store)
    await claimed(store, "killed")
    await store.close()
    store = store_in(tmp_path)
    async with opened(store, tmp_path):
        assert keys(await claimed(store, "next")) == [(job_id, 0, 2)]


async def test_a_directory_that_another_scheduler_uses_is_refused(tmp_path: Path) -> None:
    async with opened(store_in(tmp_path), tmp_path):
        with pytest.raises(SettingRefused, match=r"--state-dir: got .*, which another scheduler uses; .*--state-url"):
            async with opened(store_in(tmp_path), tmp_path):
                pass
    async with opened(store_in(tmp_path), tmp_path):
        pass
