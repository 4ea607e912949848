"""Jobs that were accepted are done by whichever life of the service comes to it, however the ones before it ended."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from qllm.v1 import batches_pb2 as pb
from qllm.v1 import batches_pb2_grpc, inference_pb2

from tests.integration.conftest import MODEL
from tests.support.jobs.postgresql import running_postgresql
from tests.support.service.live_service import LiveService, start_service
from tests.support.service.simulated_worker import slow_worker

NUM_ITEMS, NUM_TOKENS = 4, 12
WAIT_S = 120


def parts() -> Iterator[pb.CreateBatchRequest]:
    yield pb.CreateBatchRequest(header=pb.BatchHeader(idempotency_key="once"))
    for position in range(NUM_ITEMS):
        request = inference_pb2.GenerateRequest(
            token_ids=inference_pb2.TokenIds(ids=[5, 6, 7, position]),
            stop=inference_pb2.StopConditions(max_tokens=NUM_TOKENS, ignore_eos=True),
        )
        yield pb.CreateBatchRequest(item=pb.NewBatchItem(custom_id=f"item-{position}", request=request))


@contextmanager
def batches(service: LiveService) -> Iterator[batches_pb2_grpc.BatchesServiceStub]:
    with service.channel() as channel:
        yield batches_pb2_grpc.BatchesServiceStub(channel)


def add_job(service: LiveService) -> str:
    with batches(service) as stub:
        return str(stub.CreateBatch(parts(), timeout=WAIT_S).batch_id)


def wait_until_running(service: LiveService) -> None:
    while service.loads().best_effort.running == 0:
        assert service.process.poll() is None


def check_results(service: LiveService, batch_id: str) -> None:
    """Waits for the results, and finds one for each item, whole."""
    with batches(service) as stub:
        request = pb.StreamResultsRequest(batch_id=batch_id, follow=True)
        results = [*stub.StreamResults(request, timeout=WAIT_S)]
        assert [result.custom_id for result in results] == [f"item-{position}" for position in range(NUM_ITEMS)]
        assert {len(result.response.token_ids) for result in results} == {NUM_TOKENS}
        batch = stub.GetBatch(pb.GetBatchRequest(batch_id=batch_id), timeout=WAIT_S)
        assert (batch.num_succeeded, batch.num_failed) == (NUM_ITEMS, 0)
        assert add_job(service) == batch_id


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_job_goes_on_in_the_next_life_of_the_service(tmp_path: Path, number: signal.Signals) -> None:
    options = ("--state-dir", str(tmp_path / "state"), "--grace-s", "0")
    worker = slow_worker(tmp_path)
    with start_service(MODEL, tmp_path / "log1", *options, worker_options=worker) as service:
        batch_id = add_job(service)
        wait_until_running(service)
        os.killpg(service.process.pid, number)
        assert service.process.wait(WAIT_S) == (0 if number is signal.SIGTERM else -number)
    with start_service(MODEL, tmp_path / "log2", *options, worker_options=worker) as service:
        check_results(service, batch_id)


def test_a_job_in_postgresql_is_done_while_the_database_is_restarted(tmp_path: Path) -> None:
    with running_postgresql() as server:
        options = ("--state-url", server.create_database("qllm"))
        with start_service(MODEL, tmp_path / "log", *options, worker_options=slow_worker(tmp_path)) as service:
            batch_id = add_job(service)
            wait_until_running(service)
            server.kill()
            with batches(service) as stub, pytest.raises(grpc.RpcError) as refused:
                stub.GetBatch(pb.GetBatchRequest(batch_id=batch_id), timeout=WAIT_S)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert service.is_serving()
            server.start()
            check_results(service, batch_id)
