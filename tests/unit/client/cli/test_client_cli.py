import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Sequence
from typing import IO

import pytest
from qllm.v1 import inference_pb2 as pb

from tests.unit.client.fake_service import FakeService
from tests.unit.client.in_process import Finished, run_here

Call = Callable[..., Awaitable[Finished]]


async def start(*arguments: str, stdout: int | IO[bytes] = asyncio.subprocess.PIPE, **environment: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "qllm.client",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NO_COLOR": "1", **environment},
    )


async def finish(process: Process, stdin: bytes = b"") -> Finished:
    out, err = await asyncio.wait_for(process.communicate(stdin), timeout=300)
    return Finished(process.returncode, out.decode(), err.decode())


@pytest.fixture
def qllm_client(service: FakeService) -> Call:
    async def call(*arguments: str, stdin: bytes = b"") -> Finished:
        return await run_here(*arguments, stdin=stdin, QLLM_ADDRESS=service.address)

    return call


async def test_generate_streams_the_text(qllm_client: Call, service: FakeService) -> None:
    finished = await qllm_client("generate", "--class", "be", "--max-tokens", "3", "--temperature", "0", "hello")
    assert (finished.code, finished.out, finished.err) == (0, "0 1 2 \n", "")
    (request,) = service.requests
    assert (request.text, request.request_class, request.sampling.temperature) == ("hello", 2, 0)


async def test_the_command_is_a_process_of_that_name(service: FakeService) -> None:
    process = await start("generate", "--max-tokens", "2", "-", QLLM_ADDRESS=service.address)
    finished = await finish(process, "grüße".encode())
    assert (finished.code, finished.out, finished.err) == (0, "0 1 \n", "")
    assert service.requests[0].text == "grüße"


async def test_json_is_exactly_one_line_with_the_named_keys(qllm_client: Call) -> None:
    finished = await qllm_client("generate", "--max-tokens", "3", "--json", "hello")
    assert finished.code == 0
    (line,) = finished.out.splitlines()
    answer = json.loads(line)
    assert list(answer) == ["request_id", "text", "token_ids", "finish_reason", "ttft_ms", "e2e_ms", "usage"]
    assert (answer["text"], answer["token_ids"], answer["finish_reason"]) == ("0 1 2 ", [0, 1, 2], "length")
    assert 0 < answer["ttft_ms"] <= answer["e2e_ms"]
    assert (answer["usage"]["completion_tokens"], answer["usage"]["cached_tokens"]) == (3, 3)


async def test_every_option_reaches_the_service(qllm_client: Call, service: FakeService) -> None:
    options = "--max-tokens 2 --min-tokens 1 --ignore-eos --top-k 4 --top-p 0.5 --min-p 0.25 --seed 7"
    stops = "--stop x --stop y --stop-token-id 8 --stop-token-id 9"
    targets = "--ttft-ms 2000 --tpot-ms 0 --cache-salt tenant-5 --session-id s --expects-tool-call search"
    await qllm_client("generate", *options.split(), *stops.split(), *targets.split(), "hello")
    stop, sampling = service.requests[0].stop, service.requests[0].sampling
    assert (stop.max_tokens, stop.min_tokens, stop.ignore_eos) == (2, 1, True)
    assert (list(stop.stop_strings), list(stop.stop_token_ids)) == (["x", "y"], [8, 9])
    assert (sampling.top_k, sampling.top_p, sampling.min_p, sampling.seed) == (4, 0.5, 0.25, 7)
    assert service.requests[0].targets == pb.LatencyTargets(ttft_ms=2000, tpot_ms=0)
    assert service.requests[0].cache_salt == "tenant-5"
    assert service.requests[0].session == pb.SessionTurn(session_id="s", expects_tool_call="search")


async def test_the_last_turn_of_a_session_says_so(qllm_client: Call, service: FakeService) -> None:
    await qllm_client("generate", "--max-tokens", "1", "--session-id", "s", "--last-turn", "hello")
    assert service.requests[0].session == pb.SessionTurn(session_id="s", last_turn=True)


@pytest.mark.parametrize("arguments", [(), ("-",)])
async def test_prompt_comes_from_standard_input(
    qllm_client: Call, service: FakeService, arguments: Sequence[str]
) -> None:
    finished = await qllm_client("generate", "--max-tokens", "1", *arguments, stdin="grüße\n".encode())
    assert finished.code == 0
    assert service.requests[0].text == "grüße\n"


async def test_standard_input_that_is_no_text_is_wrong_usage(qllm_client: Call) -> None:
    finished = await qllm_client("generate", stdin=b"\xff\xfe")
    assert finished.code == 2
    assert "UTF-8" in finished.err


async def test_system_message_makes_a_conversation(qllm_client: Call, service: FakeService) -> None:
    await qllm_client("generate", "--max-tokens", "1", "--system", "be brief", "hello")
    sent = [(turn.role, turn.content) for turn in service.requests[0].chat.messages]
    assert sent == [("system", "be brief"), ("user", "hello")]


async def test_system_message_without_chat_is_wrong_usage(qllm_client: Call, service: FakeService) -> None:
    finished = await qllm_client("generate", "--no-chat", "--system", "be brief", "hello")
    assert (finished.code, finished.out, service.requests) == (2, "", [])


@pytest.mark.parametrize("arguments", [["generate", "--class", "vip", "x"], ["generate", "--max-tokens", "x"], ["fly"]])
async def test_wrong_usage_exits_2(qllm_client: Call, arguments: Sequence[str]) -> None:
    finished = await qllm_client(*arguments)
    assert (finished.code, finished.out) == (2, "")
    assert "Traceback" not in finished.err


@pytest.mark.parametrize("as_json", [[], ["--json"]])
async def test_a_refusal_is_one_line_on_stderr_and_exit_1(qllm_client: Call, as_json: list[str]) -> None:
    finished = await qllm_client("generate", *as_json, "fail INVALID_ARGUMENT")
    assert (finished.code, finished.out) == (1, "")
    assert finished.err == "qllm-client: INVALID_ARGUMENT: because it was asked to\n"


async def test_overload_says_when_to_try_again(qllm_client: Call) -> None:
    finished = await qllm_client("generate", "overload")
    assert (finished.code, finished.err) == (1, "qllm-client: RESOURCE_EXHAUSTED: full (try again in 0.2 s)\n")


async def test_timeout_is_honoured(qllm_client: Call, service: FakeService) -> None:
    service.step_s = 0.1
    finished = await qllm_client("generate", "--timeout", "0.3", "--max-tokens", "1000", "--json", "hello")
    assert (finished.code, finished.out) == (1, "")
    assert "DEADLINE_EXCEEDED" in finished.err


async def test_a_timeout_is_finite(qllm_client: Call) -> None:
    finished = await qllm_client("generate", "--timeout", "inf", "hello")
    refusal = "qllm-client: --timeout: got inf, allowed is a finite number, 0 or more\n"
    assert (finished.code, finished.err) == (2, refusal)


@pytest.mark.parametrize("as_json", [[], ["--json"]])
async def test_control_c_cancels_on_the_server_and_exits_130(service: FakeService, as_json: list[str]) -> None:
    process = await start("generate", *as_json, "--max-tokens", "100000", "hello", QLLM_ADDRESS=service.address)
    await asyncio.wait_for(service.received.wait(), timeout=300)
    process.send_signal(signal.SIGINT)
    finished = await finish(process)
    assert (finished.code, finished.err) == (130, "qllm-client: interrupted; the request was cancelled\n")
    await asyncio.wait_for(service.cancelled.acquire(), timeout=300)


async def test_a_reader_that_leaves_ends_the_command_without_a_traceback(service: FakeService) -> None:
    process = await start("generate", "--max-tokens", "100000", "hello", QLLM_ADDRESS=service.address)
    await process.stdout.read(1)
    process.stdout._transport.close()
    await asyncio.wait_for(process.wait(), timeout=300)
    assert b"Traceback" not in await process.stderr.read()
    await asyncio.wait_for(service.cancelled.acquire(), timeout=300)


async def test_health_exits_0_serving_and_1_not_serving(qllm_client: Call, service: FakeService) -> None:
    assert (await qllm_client("health")).code == 0
    await service.set_serving(False)
    finished = await qllm_client("health")
    assert (finished.code, finished.out) == (1, "NOT_SERVING\n")


async def test_drain_says_what_runs_and_for_how_long_at_most(qllm_client: Call, service: FakeService) -> None:
    finished = await qllm_client("drain", "--grace-s", "30")
    assert (finished.code, finished.out) == (0, "stopping: 1 request running, within 30 s at most\n")
    assert (await qllm_client("drain")).out == "stopping: 1 request running, within 2 s at most\n"
    assert service.graces_ms == [30_000, None]
    assert (await qllm_client("drain", "--grace-s", "3601")).code == 2


async def test_health_of_nothing_is_one_line_that_says_where_it_looked_and_what_helps() -> None:
    finished = await run_here("health", "--address", "127.0.0.1:1")
    assert (finished.code, finished.out) == (1, "")
    assert finished.err.startswith("qllm-client: UNAVAILABLE: no service answers at 127.0.0.1:1: ")
    helps = "; start one with `qllm-scheduler --model DIR --spawn-worker` or give --address HOST:PORT\n"
    assert finished.err.endswith(helps)
    assert finished.err.count("\n") == 1


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:99999", "::1", "http://127.0.0.1:8000"])
@pytest.mark.parametrize("arguments", [("health", "--address"), ("bench", "--grpc")])
async def test_what_is_no_address_is_wrong_usage(arguments: Sequence[str], address: str) -> None:
    finished = await run_here(*arguments, address, COLUMNS="300")
    assert (finished.code, finished.out) == (2, "")
    assert f"got '{address}'" in finished.err
    assert "allowed are HOST:PORT, [IPv6]:PORT and unix:PATH" in finished.err


async def test_the_address_may_stand_before_or_after_the_command_and_the_last_one_counts(service: FakeService) -> None:
    nobody = "127.0.0.1:1"
    before = await run_here("--address", service.address, "health", QLLM_ADDRESS=nobody)
    assert (before.code, before.out) == (0, "SERVING\n")
    both = await run_here("--address", nobody, "health", "--address", service.address)
    assert (both.code, both.out) == (0, "SERVING\n")


COMMANDS = [
    ["generate", "--max-tokens", "1", "hello"],
    ["health"],
    ["stats", "--json"],
    ["drain"],
    ["batch", "list"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
async def test_every_command_takes_the_address_and_the_key_before_and_after_its_name(
    service: FakeService, words: list[str]
) -> None:
    nobody = {"QLLM_ADDRESS": "127.0.0.1:1"}
    where = ["--address", service.address, "--api-key", "k"]
    places = range(len(words[:2]) + 1 if words[0] == "batch" else 2)
    for place in places:
        finished = await run_here(*words[:place], *where, *words[place:], **nobody)
        assert "127.0.0.1:1" not in finished.err
        assert finished.code == (1 if words[0] == "batch" else 0), finished.err  # no jobs are kept here
    if words[0] == "generate":
        assert service.authorizations == ["Bearer k"] * len(places)


async def test_an_address_that_bench_would_ignore_is_refused() -> None:
    finished = await run_here("--address", "127.0.0.1:1", "bench", "--http", "http://x", COLUMNS="300")
    assert finished.code == 2
    assert "bench measures the server that its own --grpc or --http names" in finished.err


async def test_output_to_a_full_device_is_one_line_and_exit_1(service: FakeService) -> None:
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230  (a device)
        process = await start("generate", "--max-tokens", "9", "hello", stdout=full, QLLM_ADDRESS=service.address)
        _, err = await asyncio.wait_for(process.communicate(), timeout=300)
    assert (process.returncode, err) == (1, b"qllm-client: the output cannot be written: No space left on device\n")


async def test_stats_prints_tables_and_json(qllm_client: Call) -> None:
    tables = await qllm_client("stats")
    assert tables.code == 0
    assert "num_preemptions_at_expert" in tables.out
    assert rows_of(tables.out)["predicted_wait_ms"] == ("250", "not known")
    (line,) = (await qllm_client("stats", "--json")).out.splitlines()
    answer = json.loads(line)
    assert answer["loads"]["busy_ns"] == 2**53 + 1
    assert answer["loads"]["latency_sensitive"]["predicted_wait_ms"] == 250.0
    assert answer["loads"]["best_effort"]["predicted_wait_ms"] is None
    assert answer["server"]["worker_state"] == "WORKER_STATE_READY"
    assert answer["server"]["model"]["num_layers"] == 3
    assert (answer["server"]["ls_ttft_ms"], answer["server"]["ls_tpot_ms"]) == (2500, 16.7)


def rows_of(out: str) -> dict[str, tuple[str, ...]]:
    """Returns the rows of tables, by what stands in front."""
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if "│" in line]
    return {name: tuple(values) for name, *values in cells}


async def test_stats_say_who_holds_how_much_of_the_cache(qllm_client: Call) -> None:
    rows = rows_of((await qllm_client("stats")).out)
    assert rows["latency-sensitive requests"] == ("4.0", "6.2 %")
    assert rows["best-effort requests"] == ("36.0", "56.2 %")
    assert rows["prefixes that nobody holds"] == ("12.0", "18.8 %")
    assert rows["sessions between two turns"] == ("4.0", "6.2 %")
    assert rows["free"] == ("8.0", "12.5 %")
    assert rows["cache on the device"] == ("64.0", "100.0 %")
    assert rows["beside it: suspended iterations"] == ("2.0", "3.1 %")
    assert rows["offloaded to host memory"] == ("3.0", "9.4 %")
    assert rows["offloaded to disk"] == ("0.0", "")


async def test_stats_say_what_the_cache_saved_and_what_moving_and_suspending_cost(qllm_client: Call) -> None:
    rows = rows_of((await qllm_client("stats")).out)
    assert rows["prompt tokens found"] == ("75.00 % of 2,000",)
    assert rows["offloaded"] == ("3 caches, 21 blocks, 4.5 ms",)
    assert rows["given up"] == ("2 caches, 1,100 tokens computed again",)
    assert rows["fragmentation"] == ("25.0 % of what is free",)
    assert rows["suspended, per token"] == ("32,768 bytes, 0.50 of the 65,536 of its K/V",)
    assert rows["sessions' turns found"] == ("75.00 % of 4",)


async def test_stats_as_json_have_the_memory_and_null_for_a_check_that_was_not_asked_for(qllm_client: Call) -> None:
    loads = json.loads((await qllm_client("stats", "--json")).out)["loads"]
    assert (loads["memory"]["prefix_bytes"], loads["memory"]["fragmentation"]) == (12 << 20, 0.25)
    assert loads["check"] is None


async def test_stats_say_whether_prompts_that_begin_alike_share_and_why_not(qllm_client: Call) -> None:
    rows = rows_of((await qllm_client("stats")).out)
    assert (rows["shares_prefixes"], rows["no_sharing_reason"]) == (("false",), ("--no-prefix-caching",))


async def test_a_check_says_that_the_books_agree(qllm_client: Call) -> None:
    finished = await qllm_client("stats", "--check")
    assert (finished.code, finished.out) == (0, "books agree: 1,234 blocks held by 7 sequences\n")


async def test_a_check_that_finds_problems_says_each_of_them_and_exits_1(
    qllm_client: Call, service: FakeService
) -> None:
    service.problems = ["block 5 is held twice", "the worker's books: 3 blocks leaked"]
    finished = await qllm_client("stats", "--check")
    assert (finished.code, finished.out) == (1, "block 5 is held twice\nthe worker's books: 3 blocks leaked\n")
    finished = await qllm_client("stats", "--check", "--json")
    assert finished.code == 1
    assert json.loads(finished.out)["loads"]["check"]["problems"] == service.problems


async def test_a_service_that_makes_no_checks_has_not_agreed(qllm_client: Call, service: FakeService) -> None:
    service.makes_checks = False
    finished = await qllm_client("stats", "--check")
    assert (finished.code, finished.out) == (1, "")
    assert finished.err == "qllm-client: this service makes no checks\n"
    finished = await qllm_client("stats", "--check", "--json")
    assert finished.code == 1
    assert json.loads(finished.out)["loads"]["check"] is None


async def test_a_check_is_done_once(qllm_client: Call) -> None:
    finished = await qllm_client("stats", "--check", "--watch", "1")
    assert (finished.code, finished.out) == (2, "")


async def test_stats_say_what_is_promised_and_to_how_many_requests_it_was_kept(qllm_client: Call) -> None:
    rows = {name: values[0] for name, values in rows_of((await qllm_client("stats")).out).items() if values}
    assert (rows["ls_ttft_ms"], rows["ls_tpot_ms"]) == ("2,500", "16.7")
    assert rows["first token in time"] == "99.65 % of 2,000"
    assert rows["both, of whole answers"] == "none yet"


async def test_stats_watch_goes_on_until_interrupted(service: FakeService) -> None:
    process = await start("stats", "--json", "--watch", "0.1", QLLM_ADDRESS=service.address)
    for _ in range(3):
        json.loads(await process.stdout.readline())
    process.send_signal(signal.SIGINT)
    finished = await finish(process)
    assert (finished.code, finished.err) == (130, "qllm-client: interrupted\n")


async def test_a_handover_that_nobody_can_take_is_refused_with_the_reason(qllm_client: Call) -> None:
    finished = await qllm_client("handover")
    assert (finished.code, "no worker stands by" in finished.err) == (1, True)


@pytest.mark.parametrize("arguments", [[], ["generate"], ["chat"], ["health"], ["stats"], ["drain"], ["handover"]])
async def test_help_teaches(qllm_client: Call, arguments: Sequence[str]) -> None:
    finished = await qllm_client(*arguments, "--help")
    assert finished.code == 0
    assert "qllm-client" in finished.out
