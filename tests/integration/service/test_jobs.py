"""Durable jobs over a real service: what was accepted is there, and is run, whatever dies."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from qllm.v1 import batches_pb2 as pb
from qllm.v1 import batches_pb2_grpc, inference_pb2

from tests.support.service.live_service import LiveService, start_service

MODEL = Path(__file__).parents[3] / "demo" / "model"
NUM_ITEMS = 20
# They run together, and end one after the other.
MAX_TOKENS = {f"def function_{number}(value):": 12 * (number + 1) for number in range(NUM_ITEMS)}
PROMPTS = [*MAX_TOKENS]
WAIT_S = 300.0


def request(prompt: str) -> inference_pb2.GenerateRequest:
    return inference_pb2.GenerateRequest(
        text=prompt,
        sampling=inference_pb2.SamplingParams(temperature=0),
        stop=inference_pb2.StopConditions(max_tokens=MAX_TOKENS[prompt], ignore_eos=True),
    )


def submit(service: LiveService, key: str) -> pb.Batch:
    items = [pb.NewBatchItem(custom_id=prompt, request=request(prompt)) for prompt in PROMPTS]
    messages = [
        pb.CreateBatchRequest(header=pb.BatchHeader(idempotency_key=key)),
        *(pb.CreateBatchRequest(item=item) for item in items),
    ]
    with service.channel() as channel:
        return batches_pb2_grpc.BatchesServiceStub(channel).CreateBatch(iter(messages), timeout=60)


def batch_now(service: LiveService, batch_id: str) -> pb.Batch:
    with service.channel() as channel:
        stub = batches_pb2_grpc.BatchesServiceStub(channel)
        return stub.GetBatch(pb.GetBatchRequest(batch_id=batch_id), timeout=60)


def results(service: LiveService, batch_id: str, *, follow: bool) -> list[pb.BatchResult]:
    request = pb.StreamResultsRequest(batch_id=batch_id, follow=follow)
    with service.channel() as channel:
        return list(batches_pb2_grpc.BatchesServiceStub(channel).StreamResults(request, timeout=WAIT_S))


def generated(service: LiveService, prompt: str) -> tuple[str, tuple[int, ...]]:
    """What Generate gives for the same request sent alone."""
    with service.channel() as channel:
        answers = list(service.inference(channel).Generate(request(prompt), timeout=WAIT_S))
    token_ids = tuple(token_id for answer in answers for token_id in answer.token_ids)
    return "".join(answer.text for answer in answers), token_ids


def wait_until_some_have_ended(service: LiveService, batch_id: str) -> int:
    deadline_s = time.monotonic() + WAIT_S
    while (num := batch_now(service, batch_id).num_succeeded) < 2:
        assert time.monotonic() < deadline_s, service.log.read_text()[-4000:]
        time.sleep(0.02)
    return num


@pytest.mark.slow
def test_a_job_survives_a_scheduler_that_is_killed_and_each_item_has_one_result(tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "state"))
    with start_service(MODEL, tmp_path / "first.log", *state) as first:
        batch = submit(first, "once")
        num_ended = wait_until_some_have_ended(first, batch.batch_id)
        before = {result.position: result for result in results(first, batch.batch_id, follow=False)}
        first.process.kill()
        first.process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(first.process.pid, signal.SIGKILL)  # its worker, if it has not noticed yet
    assert num_ended < NUM_ITEMS, "it was killed too late to prove anything"
    with start_service(MODEL, tmp_path / "second.log", *state) as second:
        assert submit(second, "once").batch_id == batch.batch_id
        found = results(second, batch.batch_id, follow=True)
        ended = batch_now(second, batch.batch_id)
        assert ended.status == pb.BATCH_STATUS_COMPLETED
        assert (ended.num_items, ended.num_succeeded, ended.num_failed) == (NUM_ITEMS, NUM_ITEMS, 0)
        assert [(result.position, result.custom_id) for result in found] == list(enumerate(PROMPTS))
        assert {position: found[position] for position in before} == before
        with ThreadPoolExecutor(NUM_ITEMS) as pool:
            alone = list(pool.map(lambda prompt: generated(second, prompt), PROMPTS))
        assert [(result.response.text, tuple(result.response.token_ids)) for result in found] == alone


def test_a_service_that_was_told_no_directory_says_so(free: LiveService) -> None:
    with pytest.raises(grpc.RpcError, match="--state-dir"):
        submit(free, "")
