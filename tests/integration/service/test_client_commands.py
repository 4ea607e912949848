"""`qllm-client` at a terminal: a conversation with a real service, Ctrl-C, and ports that are not gRPC's."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.service.live_service import ROOT, LiveService

CTRL_C, CTRL_D = "\x03", "\x04"
PATIENCE_S = 120.0
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}",
    "TERM": "dumb",
    "NO_COLOR": "1",
}


class Typist:
    """Who sits at a terminal, and sees all that a command shows there."""

    def __init__(self, process: "subprocess.Popen[bytes]", master: int) -> None:
        self.process = process
        self._master = master
        self._unread = ""

    def types(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupts(self) -> None:
        """Presses Ctrl-C, not in the moment in which a prompt is shown: readline misses it just before it waits."""
        time.sleep(0.5)
        self.types(CTRL_C)

    def sees(self, pattern: str) -> str:
        """Waits until the pattern is shown, and returns what came up to its end."""
        while (found := re.search(pattern, self._unread)) is None:
            ready, _, _ = select.select([self._master], [], [], PATIENCE_S)
            assert ready, f"{pattern!r} is not shown: {self._unread!r}"
            try:
                self._unread += os.read(self._master, 4096).decode()
            except OSError:  # the other side is gone
                raise AssertionError(f"{pattern!r} was not shown: {self._unread!r}") from None
        seen, self._unread = self._unread[: found.end()], self._unread[found.end() :]
        return seen

    def leaves(self) -> int:
        """Waits for the command to end; what it still shows is taken, for else it could not end."""
        while self.process.poll() is None:
            ready, _, _ = select.select([self._master], [], [], 0.05)
            if ready:
                try:
                    os.read(self._master, 4096)
                except OSError:
                    return self.process.wait(PATIENCE_S)
        return self.process.returncode


@contextmanager
def at_a_terminal(*arguments: str) -> Iterator[Typist]:
    """Runs a command at a terminal of its own, where Ctrl-C is a key."""
    master, terminal = pty.openpty()
    command = [sys.executable, "-m", "qllm.client", *arguments]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=make_it_the_terminal,
    ) as process:
        os.close(terminal)
        try:
            yield Typist(process, master)
        finally:
            process.kill()
            os.close(master)


def run(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    """Runs a command whose input is no terminal."""
    command = [sys.executable, "-m", "qllm.client", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, input=stdin, capture_output=True, text=True, timeout=PATIENCE_S
    )


def make_it_the_terminal() -> None:
    """Makes standard input the terminal of the new session, which sends its signals."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_control_c_cancels_the_answer_and_not_the_conversation(slow: LiveService) -> None:
    with at_a_terminal("chat", "--address", slow.grpc_address, "--class", "be", "--max-tokens", "1500") as typist:
        typist.sees(r"/help lists what there is\.\r\nbe> ")
        typist.types("count\n")
        typist.sees(r"count\r\n[^\r]*\S")  # the answer has begun
        typist.interrupts()
        typist.sees("cancelled\r\nbe> ")
        assert slow.loads().best_effort.running + slow.loads().best_effort.queued_decode == 0
        typist.types("/class ls\n")
        typist.sees("ls> ")
        typist.types("/reset\n")
        typist.sees("A new conversation.\r\nls> ")
        typist.types(CTRL_D)
        assert typist.leaves() == 0


def test_control_c_takes_back_what_is_typed_and_leaves_where_nothing_is(free: LiveService) -> None:
    with at_a_terminal("chat", "--address", free.grpc_address, "--max-tokens", "3") as typist:
        typist.sees("ls> ")
        typist.types("half a question")
        typist.sees("half a question")
        typist.interrupts()
        typist.sees("ls> ")
        typist.types("whole\n")
        typist.sees(r"\[ls\] 3 tokens, .* tokens/s, first token after .*; cut off at its most tokens")
        typist.sees("ls> ")
        typist.interrupts()
        assert typist.leaves() == 0


def test_a_conversation_that_fills_the_context_says_so_and_begins_anew(free: LiveService) -> None:
    context = free.model_facts.max_model_len
    long = " if" * (context - 100)  # a token each, beside those of the template
    done = run("chat", "--address", free.grpc_address, stdin=f"{long}\n/reset\nshort\n{long * 2}\n")
    first, _, second, refusal = done.stderr.splitlines()
    assert first.endswith(f"context {context:,} of {context:,} tokens: it is full; /reset begins a new conversation")
    assert "it is full" not in second
    assert done.returncode == 1
    assert refusal.startswith("qllm-client: INVALID_ARGUMENT: chat: got ")


def test_control_c_while_a_prompt_is_typed_is_an_interruption() -> None:
    with at_a_terminal("generate") as typist:
        typist.sees("Type the prompt, then Ctrl-D:")
        typist.interrupts()
        typist.sees("qllm-client: interrupted")
        assert typist.leaves() == 130


@pytest.mark.parametrize("port", ["http_port", "metrics_port"])
def test_a_port_that_speaks_http_is_called_one(
    live_service: LiveService, port: str, request: pytest.FixtureRequest
) -> None:
    address = f"127.0.0.1:{request.getfixturevalue(port)}"
    done = run("health", "--address", address)
    assert done.returncode == 1
    assert f"no service answers at {address}: that is an HTTP port; gRPC is on another one" in done.stderr
    assert live_service.is_serving()
