"""A PostgreSQL of the tests' own, on a socket in a directory; there is none where its programs are not installed.

Its files are not flushed: a process that is killed loses nothing of what it wrote to a file, only a machine does.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_STARTS_WITHIN_S = 60.0
_USER = "nobody"  # whom it runs as where root runs the tests, which it refuses to do


class PostgreSQL:
    """A running server; its user is `qllm`, and it trusts whoever can open the socket."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        return f"postgresql://qllm@/{database}?host={self.directory}"

    def start(self) -> None:
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={self.directory}", "-c", "fsync=off"]
        command = ["postgres", "-D", str(self.directory / "data"), *options]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen([*_as_somebody(), *command], stdout=log, stderr=log)
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.directory / "log").read_text())
            time.sleep(0.02)

    def kill(self) -> None:
        """Ends it as a crash does, with its children."""
        self._stop(signal.SIGQUIT)

    def stop(self) -> None:
        self._stop(signal.SIGINT)

    def create_database(self, name: str) -> str:
        """Makes an empty database; returns its URL."""
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def _stop(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True


def why_no_postgresql() -> str:
    """Says why there can be none here; empty: there can."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed"
    if shutil.which("initdb") is None or shutil.which("postgres") is None:
        return "initdb and postgres are not on the PATH"
    return ""


@contextlib.contextmanager
def running_postgresql() -> Iterator[PostgreSQL]:
    """Runs a server; skips the test where that is not possible."""
    if why_not := why_no_postgresql():
        pytest.skip(why_not)
    with started_postgresql() as server:
        yield server


@contextlib.contextmanager
def started_postgresql() -> Iterator[PostgreSQL]:
    """Runs a server."""
    directory = Path(tempfile.mkdtemp(prefix="qllm-pg-", dir="/tmp"))  # a socket's path has to be short
    server = PostgreSQL(directory)
    try:
        if os.geteuid() == 0:
            shutil.chown(directory, _USER, pwd.getpwnam(_USER).pw_gid)
        command = ["initdb", "-D", str(directory / "data"), "-U", "qllm", "-A", "trust", "-E", "UTF8", "--no-locale"]
        subprocess.run([*_as_somebody(), *command, "--no-sync"], check=True, capture_output=True)
        server.start()
        yield server
    finally:
        server.kill()  # a proper end would write all that there is
        shutil.rmtree(directory, ignore_errors=True)


def _as_somebody() -> list[str]:
    """Returns what goes before a command so that it does not run as root."""
    return ["setpriv", f"--reuid={_USER}", "--clear-groups"] if os.geteuid() == 0 else []
