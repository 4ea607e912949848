"""Requests with any content, over gRPC and HTTP, to a real service: a status that says what is wrong, and no harm done.

What single bad fields are answered with is tested elsewhere, by a table; here nobody chose the inputs.
"""

import http.client
import json
from collections.abc import Iterator

import grpc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from qllm.v1 import admin_pb2, admin_pb2_grpc
from qllm.v1 import inference_pb2 as pb

from tests.faults.fuzz.inputs import fuzzing, messages
from tests.support.service.live_service import LiveService, free_port, start_service
from tests.support.service.simulated_worker import INSTANT

pytestmark = pytest.mark.slow

BOUND_S = 60.0
GENERATE, ABORT = "/qllm.v1.InferenceService/Generate", "/qllm.v1.InferenceService/Abort"
ALLOWED = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
HTTP_ALLOWED = {200, 400, 404}
PATHS = ("/v1/completions", "/v1/chat/completions")
GOOD = pb.GenerateRequest(token_ids=pb.TokenIds(ids=range(20, 30)), stop=pb.StopConditions(max_tokens=3))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
FIELDS = (
    "model", "prompt", "messages", "max_tokens", "max_completion_tokens", "min_tokens", "temperature", "top_p", "top_k",
    "min_p", "seed", "n", "stop", "stream", "stream_options", "logprobs", "top_logprobs", "echo", "user", "priority",
    "service_tier", "ignore_eos", "return_token_ids", "response_format", "tools", "cache_salt", "session_id",
)  # fmt: skip
GOOD_BODIES = ({"prompt": "def", "max_tokens": 2}, {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2})


@pytest.fixture(scope="module")
def http_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, http_port: int) -> Iterator[LiveService]:
    log = tmp_path_factory.mktemp("fuzz") / "log"
    with start_service(
        "bytes", log, "--http-port", str(http_port), "--session-ttl-s", "0", worker_options=INSTANT
    ) as service:
        yield service
    assert "Traceback" not in log.read_text()


@pytest.fixture
def unharmed(service: LiveService) -> Iterator[grpc.Channel]:
    """A channel to the service, which afterwards answers, holds nothing and has lost no worker."""
    with service.channel() as channel:
        yield channel
        answers = list(service.inference(channel).Generate(GOOD, timeout=BOUND_S))
        assert answers[-1].HasField("finish")
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        loads = stub.GetLoads(admin_pb2.GetLoadsRequest(check=True), timeout=BOUND_S)
        assert list(loads.check.problems) == []
        assert loads.free_blocks == loads.total_blocks
    assert service.log.read_text().count("worker_ready") == 1


def status_of(channel: grpc.Channel, method: str, raw: bytes) -> tuple[grpc.StatusCode, str]:
    """Sends bytes as they are; returns how the call ended."""
    try:
        for _ in channel.unary_stream(method)(raw, timeout=BOUND_S):
            pass
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def test_requests_of_any_content_are_answered_or_refused(unharmed: grpc.Channel) -> None:
    @fuzzing
    @given(messages(pb.GenerateRequest))
    def sends(request: pb.GenerateRequest) -> None:
        status, details = status_of(unharmed, GENERATE, request.SerializeToString())
        assert status in ALLOWED, details

    sends()


def test_good_requests_in_which_some_fields_are_changed_are_answered_or_refused(unharmed: grpc.Channel) -> None:
    @fuzzing
    @given(st.data())
    def sends(data: st.DataObject) -> None:
        request = pb.GenerateRequest.FromString(GOOD.SerializeToString())
        change = data.draw(messages(pb.GenerateRequest))
        for name in data.draw(
            st.lists(st.sampled_from([field.name for field in change.DESCRIPTOR.fields]), max_size=3)
        ):
            field = change.DESCRIPTOR.fields_by_name[name]
            if field.message_type is None:
                setattr(request, name, getattr(change, name))
            else:
                getattr(request, name).MergeFrom(getattr(change, name))
        status, details = status_of(unharmed, GENERATE, request.SerializeToString())
        assert status in ALLOWED, details

    sends()


@pytest.mark.parametrize("method", [GENERATE, ABORT])
def test_bytes_of_any_kind_are_answered_or_refused(unharmed: grpc.Channel, method: str) -> None:
    @fuzzing
    @given(st.binary(max_size=300))
    def sends(raw: bytes) -> None:
        status, details = status_of(unharmed, method, raw)
        assert status in ALLOWED, details

    sends()


def http_status(port: int, path: str, body: bytes) -> tuple[int, bytes]:
    """Posts a body as JSON, and reads the answer to its end."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=BOUND_S)
    try:
        connection.request("POST", path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", PATHS)
def test_json_of_any_content_is_answered_or_refused(unharmed: grpc.Channel, http_port: int, path: str) -> None:
    @fuzzing
    @given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6) | JSON)
    @example({"prompt": "a", "max_tokens": 1, "stream": True, "stream_options": {"include_usage": True}})
    def sends(content: object) -> None:
        status, answer = http_status(http_port, path, json.dumps(content).encode())
        assert status in HTTP_ALLOWED, answer

    sends()


@pytest.mark.parametrize(("path", "good"), [*zip(PATHS, GOOD_BODIES, strict=True)], ids=PATHS)
def test_good_json_in_which_some_fields_are_changed_is_answered_or_refused(
    unharmed: grpc.Channel, http_port: int, path: str, good: dict[str, object]
) -> None:
    @fuzzing
    @given(st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=2))
    def sends(changes: dict[str, object]) -> None:
        status, answer = http_status(http_port, path, json.dumps({**good, **changes}).encode())
        assert status in HTTP_ALLOWED, answer

    sends()


@pytest.mark.parametrize("path", PATHS)
def test_bodies_of_any_bytes_are_refused(unharmed: grpc.Channel, http_port: int, path: str) -> None:
    @fuzzing
    @given(st.binary(max_size=200))
    def sends(raw: bytes) -> None:
        status, answer = http_status(http_port, path, raw)
        assert status == 400, answer

    sends()
