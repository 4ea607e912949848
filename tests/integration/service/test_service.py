"""The whole service, gRPC in and gRPC out, with real processes."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from qllm.v1 import inference_pb2 as pb

from tests.support.models.families import FAMILIES, VOCAB_SIZE, generated, random_model
from tests.support.service.live_service import ROOT, LiveService, start_service
from tests.support.service.simulated_worker import slow_worker

# The worker's tests run many more; through the whole service each costs a start.
SERVED_FAMILIES = ("mixtral", "gpt_oss")
GREEDY = pb.SamplingParams(temperature=0)
SALTS = itertools.count()


def request(prompt: Sequence[int], request_class: pb.RequestClass.ValueType, max_tokens: int) -> pb.GenerateRequest:
    """A request that finds nothing in the cache of what an earlier one left there."""
    stop = pb.StopConditions(max_tokens=max_tokens, ignore_eos=True)
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=prompt),
        request_class=request_class,
        sampling=GREEDY,
        stop=stop,
        cache_salt=f"apart {next(SALTS)}",
    )


def generate(service: LiveService, channel: grpc.Channel, message: pb.GenerateRequest) -> tuple[int, ...]:
    token_ids: list[int] = []
    for i, response in enumerate(service.inference(channel).Generate(message, timeout=500)):
        assert response.sequence_number == i
        token_ids += response.token_ids
    assert response.HasField("finish")
    assert response.finish.usage.completion_tokens == len(token_ids)
    return tuple(token_ids)


PROMPT_LENGTHS = (5, 70, 23, 9, 41, 13)  # some are longer than a chunk
CHUNKS = ("--be-chunk-tokens", "32", "--ls-chunk-tokens", "32", "--preemption-quantum-ms", "0.5")


def prompts_of(family: str) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Returns prompts, and what `generate` makes of each."""
    rng = random.Random(11)
    prompts = tuple(tuple(rng.randrange(3, VOCAB_SIZE) for _ in range(n)) for n in PROMPT_LENGTHS)
    return prompts, generated(family, prompts, 12)


@contextmanager
def service_of(family: str, directory: Path, num_ranks: int) -> Iterator[LiveService]:
    assert family in FAMILIES
    random_model(family).save_pretrained(directory / "model")
    options = (*CHUNKS, "--command-window-ms", "1")
    worker = ("--tensor-parallel-size", str(num_ranks))
    with start_service(directory / "model", directory / "log", *options, worker_options=worker) as service:
        yield service


@pytest.mark.parametrize("family", SERVED_FAMILIES)
def test_greedy_output_through_the_service_is_that_of_generate(family: str, tmp_path: Path) -> None:
    with service_of(family, tmp_path, num_ranks=1) as service:
        assert processes_below(service.worker_pid()) == []
        assert_generates_as_transformers_does(service, family)


@pytest.mark.timeout(900)
def test_two_ranks_generate_the_same_and_end_together(tmp_path: Path) -> None:
    with service_of("qwen3_next", tmp_path, num_ranks=2) as service:
        launcher = service.worker_pid()
        ranks = processes_below(launcher)
        assert len(ranks) == 2
        assert_generates_as_transformers_does(service, "qwen3_next")
        os.kill(ranks[1], signal.SIGKILL)
        deadline_s = time.monotonic() + 300
        while any(Path(f"/proc/{pid}").exists() for pid in (launcher, *ranks)):
            assert time.monotonic() < deadline_s, service.log.read_text()[-3000:]
            time.sleep(0.1)


def assert_generates_as_transformers_does(service: LiveService, family: str) -> None:
    """Greedy output is that of `generate`, for a request alone and for requests of both classes together."""
    prompts, expected = prompts_of(family)
    with service.channel() as channel, ThreadPoolExecutor(6) as pool:
        alone = generate(service, channel, request(prompts[1], pb.REQUEST_CLASS_LATENCY_SENSITIVE, 12))
        assert alone == expected[1]
        classes = [pb.REQUEST_CLASS_BEST_EFFORT, pb.REQUEST_CLASS_BEST_EFFORT, pb.REQUEST_CLASS_LATENCY_SENSITIVE] * 2
        together = [
            pool.submit(generate, service, channel, request(prompt, request_class, 12))
            for prompt, request_class in zip(prompts, classes, strict=True)
        ]
        assert tuple(future.result() for future in together) == expected
    loads = service.loads()
    assert loads.free_blocks == loads.total_blocks


def processes_below(pid: int) -> list[int]:
    """Processes that one has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def prompt_of(num_tokens: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(10, 1000) for _ in range(num_tokens)]


def test_best_effort_output_is_the_same_whether_it_was_preempted_or_not(live_service: LiveService) -> None:
    def messages() -> list[pb.GenerateRequest]:
        return [request(prompt_of(300 + 40 * i, i), pb.REQUEST_CLASS_BEST_EFFORT, 40) for i in range(4)]

    def num_preemptions() -> int:
        loads = live_service.loads()
        return loads.num_preemptions_at_expert + loads.num_preemptions_at_layer

    with live_service.channel() as channel, ThreadPoolExecutor(5) as pool:
        expected = [generate(live_service, channel, message) for message in messages()]
        before = num_preemptions()
        while num_preemptions() == before:  # an arrival may miss all that runs
            flood = [pool.submit(generate, live_service, channel, message) for message in messages()]
            while not all(future.done() for future in flood):
                generate(live_service, channel, request(prompt_of(30, 99), pb.REQUEST_CLASS_LATENCY_SENSITIVE, 4))
            assert [future.result() for future in flood] == expected
    loads = live_service.loads()
    assert loads.free_blocks == loads.total_blocks


def test_two_hundred_streams_cancelled_at_random_moments_leave_nothing_behind(live_service: LiveService) -> None:
    rng = random.Random(3)

    def start_and_cancel(i: int) -> None:
        request_class = pb.REQUEST_CLASS_LATENCY_SENSITIVE if i % 3 == 0 else pb.REQUEST_CLASS_BEST_EFFORT
        call = live_service.inference(channel).Generate(request(prompt_of(rng.randint(1, 400), i), request_class, 60))
        timer = threading.Timer(rng.random() ** 2 * 4, call.cancel)
        timer.start()
        try:
            for _ in call:
                pass
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.CANCELLED  # noqa: PT017 - ending in order is fine too
        timer.cancel()

    with live_service.channel() as channel:
        with ThreadPoolExecutor(50) as pool:
            list(pool.map(start_and_cancel, range(200)))
        generate(live_service, channel, request(prompt_of(20, 1), pb.REQUEST_CLASS_LATENCY_SENSITIVE, 4))
        loads = live_service.loads()
    assert loads.free_blocks == loads.total_blocks
    for load in (loads.latency_sensitive, loads.best_effort):
        assert (load.queued_prefill, load.queued_decode, load.running, load.offloaded) == (0, 0, 0, 0)


def test_a_deadline_ends_the_work(live_service: LiveService) -> None:
    with live_service.channel() as channel:
        message = request(prompt_of(50, 5), pb.REQUEST_CLASS_BEST_EFFORT, 1500)
        with pytest.raises(grpc.RpcError) as caught:
            list(live_service.inference(channel).Generate(message, timeout=0.5))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        generate(live_service, channel, request(prompt_of(5, 5), pb.REQUEST_CLASS_LATENCY_SENSITIVE, 2))
        loads = live_service.loads()
    assert loads.free_blocks == loads.total_blocks


def test_sampling_with_a_seed_is_repeatable_and_differs_between_seeds(live_service: LiveService) -> None:
    def sample(seed: int) -> tuple[int, ...]:
        message = request(prompt_of(12, 5), pb.REQUEST_CLASS_LATENCY_SENSITIVE, 24)
        message.sampling.CopyFrom(pb.SamplingParams(temperature=1.0, top_k=50, top_p=0.95, seed=seed))
        with live_service.channel() as channel:
            return generate(live_service, channel, message)

    assert sample(7) == sample(7) != sample(8)


def test_text_streams_as_whole_characters_and_stops_at_a_stop_string(live_service: LiveService) -> None:
    message = pb.GenerateRequest(text="def add(a, b):", sampling=GREEDY, stop=pb.StopConditions(max_tokens=60))
    with live_service.channel() as channel:
        whole = "".join(r.text for r in live_service.inference(channel).Generate(message))
        stop_string = whole[10:14]
        message.stop.stop_strings.append(stop_string)
        responses = list(live_service.inference(channel).Generate(message))
    text = "".join(response.text for response in responses)
    assert text == whole[: whole.index(stop_string)]
    assert responses[-1].finish.reason == pb.FINISH_REASON_STOP
    assert responses[-1].finish.stop_string == stop_string


def test_a_chat_is_rendered_with_the_models_template(live_service: LiveService) -> None:
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content="Write a function `main`.")])
    message = pb.GenerateRequest(chat=chat, sampling=GREEDY, stop=pb.StopConditions(max_tokens=8))
    with live_service.channel() as channel:
        responses = list(live_service.inference(channel).Generate(message))
    assert responses[-1].finish.usage.prompt_tokens > len(["Write", "a", "function"])


def test_the_command_line_client_prints_one_line_of_json(live_service: LiveService) -> None:
    command = [sys.executable, "-m", "qllm.client", "generate", "--address", live_service.grpc_address, "--class", "be"]
    command += ["--max-tokens", "5", "--temperature", "0", "--ignore-eos", "--json", "def f("]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=300)
    result = json.loads(done.stdout)
    assert len(result["token_ids"]) == 5
    assert result["finish_reason"] == "length"
    assert set(result) >= {"request_id", "text", "ttft_ms", "e2e_ms", "usage"}


@pytest.fixture(scope="module")
def replaceable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service that gives its worker up soon, and whose requests wait for no other."""
    directory = tmp_path_factory.mktemp("replaceable")
    options = ("--hang-timeout-s", "2", "--worker-wait-s", "0.1")
    worker = slow_worker(directory)
    with start_service(ROOT / "demo" / "model", directory / "log", *options, worker_options=worker) as service:
        yield service


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_requests_that_may_not_wait_for_another_worker_end_with_a_clear_status_when_theirs_is(
    replaceable: LiveService, blow: signal.Signals
) -> None:
    service = replaceable
    pid, epoch = service.worker_pid(), service.info().worker_epoch
    with service.channel() as channel:
        calls = [
            service.inference(channel).Generate(request(prompt_of(100, i), request_class, 1500))
            for i, request_class in enumerate([pb.REQUEST_CLASS_LATENCY_SENSITIVE, pb.REQUEST_CLASS_BEST_EFFORT] * 2)
        ]
        next(calls[0])  # the first is under way; the best-effort ones may still wait
        os.kill(pid, blow)
        for call in calls:
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "worker" in caught.value.details()
        deadline = time.monotonic() + 300
        while service.info().worker_epoch == epoch or not service.is_serving():
            assert time.monotonic() < deadline, "no other worker took over"
            time.sleep(0.1)
        assert len(generate(service, channel, request(prompt_of(9, 2), pb.REQUEST_CLASS_LATENCY_SENSITIVE, 3))) == 3
