"""`qllm-client batch` over the real API and jobs in memory."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from scheduler_svc.api.grpc.items import generate_items
from scheduler_svc.api.jobs.items import ItemAnswers
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.jobs.job import ItemKind, ItemOutcome, ItemStatus, NewItem, NewJob
from tests.support.jobs.memory_jobs import MemoryJobs
from tests.support.jobs.new_jobs import each
from tests.support.service.api_service import Service, running
from tests.support.service.fakes import FakeGenerator
from tests.unit.client.in_process import Finished, run_here

Call = Callable[..., Awaitable[Finished]]

LINES = (
    {"custom_id": "short", "prompt": "hello", "max_tokens": 3, "temperature": 0},
    {"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 2, "stop": "x"},
    {
        "custom_id": "openai",
        "method": "POST",
        "url": "/v1/completions",
        "body": {"model": "fake", "prompt": [5, 6], "max_tokens": 3, "n": 1, "stream": False, "user": "me"},
    },
)


@pytest.fixture
def jobs() -> MemoryJobs:
    return MemoryJobs(now_s=time.time())


@pytest.fixture
async def service(jobs: MemoryJobs) -> AsyncIterator[Service]:
    async with running(FakeGenerator(), jobs) as service:
        yield service


@pytest.fixture
def batch(service: Service) -> Call:
    async def call(*arguments: str, stdin: bytes = b"") -> Finished:
        return await run_here("batch", *arguments, stdin=stdin, QLLM_ADDRESS=service.server.address, COLUMNS="160")

    return call


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in LINES) + "\n\n")
    return path


async def run_all(service: Service, jobs: MemoryJobs) -> None:
    texts = TextGenerator(service.generator)
    await jobs.run_all(ItemAnswers({ItemKind.GENERATE: generate_items(texts)}))
    texts.close()


async def submitted(batch: Call, path: Path, *options: str) -> str:
    finished = await batch("submit", str(path), *options)
    assert finished.code == 0, finished.err
    return finished.out.strip()


async def test_submit_prints_the_jobs_id_and_how_to_go_on(batch: Call, lines: Path) -> None:
    finished = await batch("submit", str(lines))
    batch_id = finished.out.strip()
    assert (finished.code, batch_id) == (0, "batch_1")
    assert finished.err == f"3 items; read them with: qllm-client batch results {batch_id}\n"


async def test_both_forms_of_lines_become_requests(
    batch: Call, lines: Path, service: Service, jobs: MemoryJobs
) -> None:
    batch_id = await submitted(batch, lines)
    await run_all(service, jobs)
    finished = await batch("results", batch_id)
    first, second, third = map(json.loads, finished.out.splitlines())
    assert [line["custom_id"] for line in (first, second, third)] == ["short", "line-2", "openai"]
    assert list(first) == ["position", "custom_id", "response", "error"]
    assert list(first["response"]) == ["text", "token_ids", "finish_reason", "stop_string", "usage"]
    assert (first["response"]["text"], first["error"]) == ("hellohe", None)
    assert third["response"]["token_ids"] == [5, 6, 5]


async def test_the_same_file_is_the_same_job_unless_it_is_asked_for_again(batch: Call, lines: Path) -> None:
    first = await submitted(batch, lines)
    assert await submitted(batch, lines) == first
    others = [
        await submitted(batch, lines, *options)
        for options in (["--again"], ["--metadata", "a=b"], ["--window-hours", "2"], ["--key", "k"])
    ]
    assert len({first, *others}) == 5
    assert await submitted(batch, lines, "--key", "k") == others[-1]


async def test_a_job_of_long_ago_is_said_to_be_one(lines: Path) -> None:
    async with running(FakeGenerator(), MemoryJobs(now_s=1000.0)) as service:
        finished = await run_here("batch", "submit", str(lines), QLLM_ADDRESS=service.server.address)
    assert (finished.code, finished.out) == (0, "batch_1\n")
    assert finished.err.startswith("submitted before, this is that job (in_progress: 0 of 3 answered); --again")


async def test_json_is_one_line_with_all_fields(batch: Call, lines: Path) -> None:
    finished = await batch("submit", str(lines), "--json", "--metadata", "who=me", "--window-hours", "2")
    (line,) = finished.out.splitlines()
    job = json.loads(line)
    assert (finished.err, job["status"], job["num_items"], job["metadata"]) == ("", "in_progress", 3, {"who": "me"})
    assert job["expires_at_s"] - job["created_at_s"] == 7200
    assert json.loads((await batch("get", job["batch_id"], "--json")).out) == job
    assert json.loads((await batch("list", "--json")).out) == [job]


async def test_standard_input_is_a_file_too(batch: Call) -> None:
    finished = await batch("submit", "-", stdin=b'{"prompt": "hello"}\n')
    assert (finished.code, finished.out) == (0, "batch_1\n")


async def test_wait_ends_with_the_job_and_its_exit_code_tells_of_failures(
    batch: Call, lines: Path, service: Service, jobs: MemoryJobs
) -> None:
    waiting = asyncio.ensure_future(batch("submit", str(lines), "--wait"))
    async with asyncio.timeout(5):
        while not (await jobs.jobs("", None, 1))[0]:  # noqa: ASYNC110  (nobody tells of it)
            await asyncio.sleep(0.005)
    await run_all(service, jobs)
    finished = await waiting
    assert (finished.code, finished.err) == (0, "completed: 3 of 3 answered\n")
    second = await submitted(batch, lines, "--again")
    jobs.finish(second, 0, ItemOutcome(status=ItemStatus.FAILED, error_code="INVALID_ARGUMENT", error_message="no"))
    await run_all(service, jobs)
    assert (await batch("get", second)).out.count("completed") == 1


async def test_waiting_for_a_job_with_failures_ends_with_code_1(batch: Call, lines: Path, jobs: MemoryJobs) -> None:
    first = await submitted(batch, lines)
    for position in range(3):
        jobs.finish(first, position, ItemOutcome(status=ItemStatus.FAILED, error_code="INTERNAL"))
    finished = await batch("submit", str(lines), "--wait")
    assert finished.code == 1
    before, how = finished.err.splitlines()
    assert before.startswith("submitted before, this is that job")
    assert how == "completed: 0 of 3 answered, 3 failed"


BAD_LINES = {
    "no JSON": (b"{", "line 1: Expecting property name"),
    "no object": (b"[1]", "line 1: the line: got [1], allowed is an object"),
    "no prompt": (b'{"custom_id": "a"}', "line 1: a request: allowed is one with either prompt or messages"),
    "two prompts": (b'{"prompt": "a", "messages": []}', "either prompt or messages"),
    "a number": (b'{"prompt": 7}', "line 1: prompt: got 7, allowed is a text or a list of token ids"),
    "bad messages": (b'{"messages": [{"role": "user"}]}', "line 1: messages: allowed is a list of objects"),
    "unknown option": (
        b'{"prompt": "a", "logit_bias": {}}',
        "line 1: logit_bias: got {}, allowed are allowed_",
    ),
    "several choices": (b'{"prompt": "a", "n": 2}', "line 1: n: got 2, allowed is 1"),
    "a bad type": (b'{"prompt": "a", "max_tokens": "many"}', "line 1: max_tokens: got 'many', allowed is an integer"),
    "another url": (b'{"url": "/v1/embeddings", "body": {"prompt": "a"}}', "line 1: url: got '/v1/embeddings'"),
    "another method": (b'{"method": "GET", "body": {"prompt": "a"}}', "line 1: method: got 'GET'"),
    "beside the body": (b'{"prompt": "a", "body": {"prompt": "a"}}', "line 1: prompt: got 'a', allowed beside a body"),
    "a body of text": (b'{"body": "a"}', "line 1: body: got 'a', allowed is an object"),
    "a custom_id": (b'{"custom_id": 1, "prompt": "a"}', "line 1: custom_id: got 1, allowed is a text"),
    "twice": (
        b'{"custom_id": "a", "prompt": "a"}\n\n{"custom_id": "a", "prompt": "b"}',
        "line 3: custom_id: got 'a', which line 1 has",
    ),
    "nothing": (b"\n", "it has no requests"),
    "no UTF-8": (b'{"prompt": "\xff"}', "line 1: 'utf-8' codec"),
}


@pytest.mark.parametrize(("content", "message"), BAD_LINES.values(), ids=BAD_LINES)
async def test_a_bad_line_is_named_and_nothing_is_submitted(
    batch: Call, jobs: MemoryJobs, tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    finished = await batch("submit", str(path))
    assert finished.code == 2
    assert message in " ".join(finished.err.replace("│", " ").split())
    assert await jobs.jobs("", None, 9) == ([], False)


async def test_many_bad_lines_are_told_together_up_to_ten(batch: Call, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text("{\n" * 12)
    error = " ".join((await batch("submit", str(path))).err.replace("│", " ").split())
    assert "line 10:" in error
    assert "line 11:" not in error
    assert "and 2 lines more" in error


async def test_what_the_service_refuses_is_told(batch: Call, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"prompt": "a", "temperature": -1}')
    finished = await batch("submit", str(path))
    assert finished.code == 1
    assert "items[0].request.sampling.temperature: got -1.0" in finished.err


@pytest.mark.parametrize("options", [["--metadata", "nonsense"], ["--metadata", "=x"]])
async def test_metadata_is_pairs(batch: Call, lines: Path, options: list[str]) -> None:
    finished = await batch("submit", str(lines), *options)
    assert finished.code == 2
    assert "KEY=VALUE" in finished.err


async def test_a_file_that_is_not_there_is_refused(batch: Call, tmp_path: Path) -> None:
    finished = await batch("submit", str(tmp_path / "none"))
    assert finished.code == 2
    assert "No such file" in " ".join(finished.err.replace("│", " ").split())


async def test_jobs_are_shown_as_tables(batch: Call, lines: Path) -> None:
    assert (await batch("list")).out == "no jobs\n"
    first = await submitted(batch, lines, "--metadata", "who=me")
    second = await submitted(batch, lines, "--again")
    listed = (await batch("list")).out
    assert listed.index(second) < listed.index(first)
    assert "who=me" in listed
    assert second in (await batch("list", "--limit", "1")).out
    shown = (await batch("get", first)).out
    assert all(word in shown for word in (first, "in_progress", "num_items", "metadata who"))


async def test_cancel_says_how_the_job_stands(batch: Call, lines: Path) -> None:
    batch_id = await submitted(batch, lines)
    finished = await batch("cancel", batch_id)
    assert (finished.code, finished.out) == (0, "cancelled: 0 of 3 answered\n")
    results = [json.loads(line) for line in (await batch("results", batch_id)).out.splitlines()]
    assert {line["error"]["code"] for line in results} == {"CANCELLED"}
    assert all(line["response"] is None for line in results)


async def test_results_go_into_a_file(
    batch: Call, lines: Path, service: Service, jobs: MemoryJobs, tmp_path: Path
) -> None:
    batch_id = await submitted(batch, lines)
    await run_all(service, jobs)
    out = tmp_path / "answers.jsonl"
    finished = await batch("results", batch_id, "--follow", "--from", "1", "-o", str(out))
    assert (finished.code, finished.out) == (0, "")
    assert [json.loads(line)["position"] for line in out.read_text().splitlines()] == [1, 2]
    refused = await batch("results", batch_id, "-o", str(tmp_path / "none" / "file"))
    assert refused.code == 2


async def test_results_of_a_job_of_http_are_openais_objects(batch: Call, jobs: MemoryJobs) -> None:
    job = await jobs.create_job(NewJob(tenant="", kind=ItemKind.COMPLETION), each([NewItem("a", b"{}")]))
    jobs.finish(job.job_id, 0, ItemOutcome(status=ItemStatus.SUCCEEDED, body=b'{"object":"text_completion"}'))
    line = json.loads((await batch("results", job.job_id)).out)
    assert line["response"] == {"object": "text_completion"}


async def test_a_job_that_is_not_there_is_said_to_be_so(batch: Call) -> None:
    for command in ("get", "results", "cancel"):
        finished = await batch(command, "nobody's")
        assert finished.code == 1
        assert "NOT_FOUND: batch_id" in finished.err


@pytest.mark.parametrize("command", [(), ("submit",), ("list",), ("get",), ("results",), ("cancel",)])
async def test_help_teaches_each_command(command: tuple[str, ...]) -> None:
    finished = await run_here("batch", *command, "--help")
    assert finished.code == 0
    assert "job" in finished.out


async def test_ctrl_c_leaves_the_job_running_and_says_so(service: Service, jobs: MemoryJobs, lines: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qllm.client", "batch", "submit", str(lines), "--wait"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "QLLM_ADDRESS": service.server.address},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    batch_id = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), 60) == 130
    said = (await process.stderr.read()).decode()
    assert said == f"qllm-client: the job goes on; see it with: qllm-client batch get {batch_id}\n"
    job = await jobs.job("", batch_id)
    assert job is not None
    assert not job.status.is_terminal
