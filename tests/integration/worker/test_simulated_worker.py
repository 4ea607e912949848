"""A service whose worker has no model: real processes, real sockets, tokens and times from a table."""

import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest
from qllm.v1 import inference_pb2 as pb
from tokenizers import Tokenizer

from tests.support.channel.control_channel import ROOT, python_path
from tests.support.service.live_service import LiveService
from tests.support.service.simulated_worker import NUM_EXPERTS, NUM_LAYERS, UNIT_US

MODEL = ROOT / "demo" / "model"
PROMPT = tuple(range(20, 60))
SALTS = itertools.count()


def request(
    request_class: pb.RequestClass.ValueType, max_tokens: int, prompt: tuple[int, ...] = PROMPT
) -> pb.GenerateRequest:
    """A request that finds nothing in the cache of what an earlier one left there."""
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=prompt),
        request_class=request_class,
        sampling=pb.SamplingParams(temperature=0),
        stop=pb.StopConditions(max_tokens=max_tokens),
        cache_salt=f"apart {next(SALTS)}",
    )


def generate(service: LiveService, channel: grpc.Channel, message: pb.GenerateRequest) -> list[pb.GenerateResponse]:
    return list(service.inference(channel).Generate(message, timeout=300))


def token_ids(messages: list[pb.GenerateResponse]) -> list[int]:
    return [token_id for message in messages for token_id in message.token_ids]


def test_worker_without_a_model_loads_neither_torch_nor_transformers() -> None:
    program = (
        "import sys, gpu_worker.__main__, gpu_worker.simulated.startup\n"
        "assert not {'torch', 'transformers', 'greenlet'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=python_path(), check=True)


def test_streams_the_text_of_its_tokens_and_the_same_for_the_same_prompt(free: LiveService) -> None:
    with free.channel() as channel:
        messages = generate(free, channel, request(pb.REQUEST_CLASS_LATENCY_SENSITIVE, 200))
        again = generate(free, channel, request(pb.REQUEST_CLASS_BEST_EFFORT, 200))
    tokens = token_ids(messages)
    assert len(tokens) == 200
    assert token_ids(again) == tokens
    assert messages[-1].finish.reason == pb.FINISH_REASON_LENGTH
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    assert "".join(message.text for message in messages) == tokenizer.decode([*PROMPT, *tokens]).removeprefix(
        tokenizer.decode(PROMPT)
    )


def test_many_streams_at_once_get_what_each_gets_alone(free: LiveService) -> None:
    prompts = [(*PROMPT, number) for number in range(24)]
    with free.channel() as channel:
        alone = [
            token_ids(generate(free, channel, request(pb.REQUEST_CLASS_LATENCY_SENSITIVE, 50, prompt)))
            for prompt in prompts
        ]
        classes = (pb.REQUEST_CLASS_LATENCY_SENSITIVE, pb.REQUEST_CLASS_BEST_EFFORT)
        stub = free.inference(channel)
        calls = [stub.Generate(request(classes[i % 2], 50, prompt), timeout=300) for i, prompt in enumerate(prompts)]
        assert [token_ids(list(call)) for call in calls] == alone


def test_work_that_can_wait_stops_between_units_for_an_arrival_and_loses_nothing(slow: LiveService) -> None:
    with slow.channel() as channel:
        undisturbed = token_ids(generate(slow, channel, request(pb.REQUEST_CLASS_BEST_EFFORT, 6)))
        call = slow.inference(channel).Generate(request(pb.REQUEST_CLASS_BEST_EFFORT, 6), timeout=300)
        messages = [next(call)]
        for _ in range(3):
            generate(slow, channel, request(pb.REQUEST_CLASS_LATENCY_SENSITIVE, 1, PROMPT[:8]))
        messages += call
    assert token_ids(messages) == undisturbed
    assert messages[-1].finish.usage.num_preemptions > 0
    loads = slow.loads()
    assert loads.num_preemptions_at_expert + loads.num_preemptions_at_layer > 0


def test_iterations_take_the_time_that_the_table_says(slow: LiveService) -> None:
    before = slow.loads()
    with slow.channel() as channel:
        generate(slow, channel, request(pb.REQUEST_CLASS_LATENCY_SENSITIVE, 4))
    after = slow.loads()
    num_units = NUM_LAYERS * (1 + NUM_EXPERTS)  # of the prompt's iteration, which uses all experts
    assert after.num_iterations - before.num_iterations == 4
    assert after.busy_ns - before.busy_ns >= num_units * UNIT_US * 1000


def test_cancelled_stream_gives_its_blocks_back_at_the_next_unit(slow: LiveService) -> None:
    with slow.channel() as channel:
        call = slow.inference(channel).Generate(request(pb.REQUEST_CLASS_BEST_EFFORT, 300), timeout=300)
        next(call)
        assert slow.loads().free_blocks < slow.loads().total_blocks
        call.cancel()
        pause = threading.Event()
        while slow.loads().free_blocks < slow.loads().total_blocks:
            pause.wait(0.02)


def test_killed_worker_is_replaced_and_says_the_same_again(free: LiveService) -> None:
    message = request(pb.REQUEST_CLASS_LATENCY_SENSITIVE, 20)
    with free.channel() as channel:
        before = token_ids(generate(free, channel, message))
        os.kill(free.worker_pid(), signal.SIGKILL)
        pause = threading.Event()
        while free.is_serving():
            pause.wait(0.01)
        free.wait_until_serving()
        assert token_ids(generate(free, channel, message)) == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--simulated", "none.json"], "--simulated: can't read 'none.json'"),
        (["--simulated", "zero", "--model", "no/such/directory"], "--model: got no/such/directory"),
        (["--simulated", "zero", "--model", "scheduler_svc"], "the tokenizer of scheduler_svc can't be read"),
        (["--simulated", "zero", "--num-blocks", "0"], "--num-blocks"),
        ([], "--model: got nothing"),
    ],
)
def test_bad_setting_is_refused_with_its_flag(arguments: list[str], reason: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gpu_worker", "--control-endpoint", f"ipc://{tmp_path}/c", *arguments]
    ended = subprocess.run(
        command, cwd=ROOT, env=python_path(), capture_output=True, text=True, check=False, timeout=300
    )
    assert ended.returncode == 2
    assert reason in ended.stderr
