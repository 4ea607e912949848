"""A supervised worker: restarts, refusals, and its end."""

import asyncio
import errno
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from scheduler_svc import supervisor
from scheduler_svc.supervisor import WorkerRefused, WorkerSupervisor
from tests.support.channel.control_channel import eventually

SLEEP = "import time; time.sleep(600)"
BUSY = "while True: pass"
READS = "import time\nwhile True: open('/dev/zero', 'rb').read(4096); time.sleep(0.05)"
WAITS_FOR_A_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}])"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); open({{!r}}, 'w').close(); {SLEEP}"


def supervise(program: str, **options: float) -> WorkerSupervisor:
    command = (sys.executable, "-c", program)
    return WorkerSupervisor("ipc:///tmp/x", "some/model", command=command, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def running(worker: WorkerSupervisor) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(worker.run())
    await eventually(lambda: worker.pid or task.done())
    yield task
    await worker.close()
    await task


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(supervisor, "_MAX_BACKOFF_S", 0.02)


async def test_worker_gets_its_arguments_and_the_parent_to_die_with(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    program = f"import sys, pathlib; pathlib.Path({str(seen)!r}).write_text(' '.join(sys.argv[1:])); {SLEEP}"
    async with running(supervise(program, stop_grace_s=0.1)):
        await eventually(lambda: seen.exists() and seen.read_text())
    expected = f"--control-endpoint ipc:///tmp/x --model some/model --parent-pid {os.getpid()}"
    assert seen.read_text() == expected


async def test_a_worker_learns_no_secret_of_the_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("QLLM_CURVE_SECRET_KEY", "QLLM_STATE_URL", "QLLM_API_KEYS", "QLLM_TLS_KEY", "PGPASSWORD", "PGPASSFILE")
    for name in (*secrets, "QLLM_MODEL"):
        monkeypatch.setenv(name, "secret")
    seen = tmp_path / "seen"
    program = f"import os, pathlib; pathlib.Path({str(seen)!r}).write_text(' '.join(os.environ)); {SLEEP}"
    async with running(supervise(program, stop_grace_s=0.1)):
        await eventually(lambda: seen.exists() and seen.read_text())
    names = seen.read_text().split()
    assert "QLLM_MODEL" in names
    assert not {*secrets}.intersection(names)


async def test_later_workers_compute_in_the_type_of_the_first_unless_one_is_asked_for(tmp_path: Path) -> None:
    for options, expected in (((), "--dtype float32"), (("--dtype=bfloat16",), "--dtype=bfloat16")):
        seen = tmp_path / f"seen{len(options)}"
        program = f"import sys, pathlib; pathlib.Path({str(seen)!r}).write_text(' '.join(sys.argv[1:])); {SLEEP}"
        command = (sys.executable, "-c", program)
        worker = WorkerSupervisor("ipc:///tmp/x", "some/model", options, command=command, stop_grace_s=0.1)
        async with running(worker):
            await eventually(lambda seen=seen: seen.exists() and seen.read_text())
            seen.unlink()
            worker.keep_dtype("float32")
            worker.worker_hung()
            await eventually(lambda seen=seen: seen.exists() and seen.read_text())
        assert seen.read_text().count("dtype") == 1
        assert expected in seen.read_text()


async def test_a_worker_is_known_by_its_process_and_by_what_that_has_started(tmp_path: Path) -> None:
    told = tmp_path / "child"
    child = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])"
    worker = supervise(f"{child}; open({str(told)!r}, 'w').write(f'{{child.pid}}.'); {SLEEP}", stop_grace_s=0.1)
    async with running(worker):
        await eventually(lambda: told.exists() and told.read_text().endswith("."))
        grandchild = int(told.read_text().strip("."))
        assert worker.pid is not None
        assert (worker.owns(worker.pid), worker.owns(grandchild), worker.owns(os.getpid())) == (True, True, False)
        os.kill(grandchild, signal.SIGKILL)


async def test_killed_worker_is_started_again() -> None:
    worker = supervise(SLEEP, stop_grace_s=0.1)
    async with running(worker):
        worker.worker_joined()
        first = worker.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: worker.pid not in (None, first))


async def test_what_a_worker_has_started_ends_with_it_and_holds_up_no_successor(tmp_path: Path) -> None:
    told = tmp_path / "child"
    starts_one = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])"
    worker = supervise(f"{starts_one}; open({str(told)!r}, 'w').write(f'{{child.pid}}.'); {SLEEP}", stop_grace_s=0.1)
    async with running(worker):
        await eventually(lambda: told.exists() and told.read_text().endswith("."))
        first, child = worker.pid, int(told.read_text().strip("."))
        assert first is not None
        os.kill(first, signal.SIGKILL)  # as the system does that lacks memory: the child is not told
        await eventually(lambda: worker.pid not in (None, first) and not is_alive(child))


async def test_hung_worker_is_killed_and_started_again() -> None:
    worker = supervise(SLEEP, stop_grace_s=0.1)
    async with running(worker):
        worker.worker_joined()
        first = worker.pid
        worker.worker_hung()
        await eventually(lambda: worker.pid not in (None, first))


async def test_a_worker_that_was_stopped_while_it_loads_is_killed_and_started_again() -> None:
    worker = supervise(BUSY, stop_grace_s=0.1, standstill_s=0.2)
    async with running(worker):
        first = worker.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        await eventually(lambda: worker.pid not in (None, first))


@pytest.mark.parametrize("program", [BUSY, READS, WAITS_FOR_A_CHILD])
async def test_a_worker_that_does_anything_while_it_loads_is_let_be(program: str) -> None:
    worker = supervise(program, stop_grace_s=0.1, standstill_s=0.8)
    async with running(worker):
        first = worker.pid
        await asyncio.sleep(1.2)
        assert worker.pid == first


async def test_a_worker_that_serves_or_says_that_it_stands_by_may_do_nothing_else() -> None:
    worker = supervise(SLEEP, stop_grace_s=0.1, standstill_s=0.4)
    async with running(worker):
        first = worker.pid
        for _ in range(10):
            worker.worker_waits()
            await asyncio.sleep(0.1)
        worker.worker_joined()
        await asyncio.sleep(1.0)
        assert worker.pid == first
        worker.worker_lost()  # and neither serves nor says hello
        await eventually(lambda: worker.pid not in (None, first))


@pytest.mark.parametrize("code", [2, 3])
async def test_refusal_before_the_first_hello_ends_the_start_with_the_workers_words(code: int) -> None:
    worker = supervise(f"import sys; sys.stderr.write('no such model: x\\n'); sys.exit({code})")
    with pytest.raises(WorkerRefused, match="no such model: x"):
        await worker.run()


async def test_a_refusal_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    worker = supervise("import sys; sys.stderr.write('loading\\nqllm-worker: no such model\\n'); sys.exit(2)")
    with pytest.raises(WorkerRefused) as caught:
        await worker.run()
    assert str(caught.value) == "the worker refused to start (exit code 2): no such model"
    assert capsys.readouterr().err == "loading\n"


async def test_an_option_that_the_worker_does_not_know_is_named_without_the_box_around_it() -> None:
    worker = WorkerSupervisor("ipc:///tmp/x", "m", ["--bogus"])
    with pytest.raises(WorkerRefused) as caught:
        await worker.run()
    assert str(caught.value) == "the worker refused to start (exit code 2): No such option: --bogus"


async def test_worker_that_keeps_crashing_before_it_is_ready_ends_the_start() -> None:
    with pytest.raises(WorkerRefused, match=r"5 times.*exit code 1"):
        await supervise("import sys; sys.exit('boom')").run()


async def test_refusal_after_a_worker_has_served_is_tried_again(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    program = f"import sys, time; open({str(starts)!r}, 'a').write('x'); time.sleep(0.05); sys.exit(2)"
    worker = supervise(program, stop_grace_s=0.1)
    async with running(worker) as task:
        worker.worker_joined()
        await eventually(lambda: starts.exists() and len(starts.read_text()) >= 7)
        assert not task.done()


async def test_close_ends_a_worker_that_ignores_sigterm(tmp_path: Path) -> None:
    deaf = tmp_path / "deaf"
    worker = supervise(STUBBORN.format(str(deaf)), stop_grace_s=0.1)
    async with running(worker):
        await eventually(deaf.exists)
        pid = worker.pid
        assert pid is not None
    assert not is_alive(pid)
    assert worker.pid is None


async def test_cancelled_supervisor_leaves_no_worker_behind() -> None:
    worker = supervise(SLEEP)
    task = asyncio.create_task(worker.run())
    await eventually(lambda: worker.pid)
    pid = worker.pid
    assert pid is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: not is_alive(pid))


async def test_endless_line_of_the_worker_does_not_fill_memory_or_stop_the_supervisor() -> None:
    program = "import sys; sys.stderr.write('x' * 1_000_000 + '\\nlast words\\n'); sys.exit(2)"
    with pytest.raises(WorkerRefused, match="last words"):
        await supervise(program).run()


async def test_program_that_does_not_exist_ends_the_start() -> None:
    worker = WorkerSupervisor("ipc:///tmp/x", "m", command=("/nonexistent/worker",))
    with pytest.raises(WorkerRefused, match="/nonexistent/worker"):
        await worker.run()


@pytest.mark.parametrize("shortage", [errno.EMFILE, errno.EAGAIN, errno.ENOMEM])
async def test_worker_is_started_again_once_the_system_has_room(
    shortage: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shortages = [OSError(shortage, os.strerror(shortage))] * 3
    start = asyncio.create_subprocess_exec

    async def start_if_there_is_room(*arguments: str, **options: object) -> asyncio.subprocess.Process:
        if shortages:
            raise shortages.pop()
        return await start(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(supervisor, "_SHORTAGE_PAUSE_S", 0.01)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_if_there_is_room)
    worker = supervise(SLEEP, stop_grace_s=0.1)
    async with running(worker) as task:
        assert worker.pid is not None
        assert not task.done()
    assert [record.message for record in caplog.records if "worker_waits" in record.message] == [
        f"worker_waits reason={os.strerror(shortage)!r} (said once a minute)"
    ]


async def test_a_worker_for_which_no_further_descriptor_is_left_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", none_left)
    worker = supervise(SLEEP, stop_grace_s=0.1)
    async with running(worker):
        first = worker.pid
        await asyncio.sleep(0.2)
        assert worker.pid == first is not None


async def test_worker_that_finds_no_room_is_not_waited_for_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()

    async def never(*arguments: str, **options: object) -> asyncio.subprocess.Process:
        asked.set()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", never)
    worker = supervise(SLEEP)
    task = asyncio.create_task(worker.run())
    await asked.wait()
    await worker.close()
    await task
