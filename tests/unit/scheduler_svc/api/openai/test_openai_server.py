"""Facts and health over HTTP, and how the server starts, bounds what it takes in, and stops."""

import asyncio
import json
import os
import subprocess
import sys
from contextlib import suppress

import httpx2
import pytest
from qllm.settings import SettingRefused

from scheduler_svc import __version__
from scheduler_svc.api.openai.connections.guard import RequestGuard
from scheduler_svc.api.openai.server import OpenAiServer
from scheduler_svc.generation import WorkerState
from scheduler_svc.service import Service
from scheduler_svc.settings import Config
from tests.support.service.fakes import FakeGenerator, served_model
from tests.support.service.live_service import ROOT, free_port
from tests.support.service.openai_service import COMPLETIONS, error_of, events_of, http_app, openai_server, running_http


async def test_health_is_ok_only_while_the_worker_is_ready() -> None:
    generator = FakeGenerator()
    async with http_app(generator) as service:
        assert (await service.http.get("/health")).status_code == 200
        for state in (WorkerState.HUNG, WorkerState.ABSENT):
            generator.worker_state = state
            response = await service.http.get("/health")
            assert response.status_code == 503
            assert error_of(response)["code"] == "service_unavailable"
        generator.worker_state = WorkerState.READY
        assert (await service.http.get("/health")).status_code == 200


async def test_version_is_that_of_the_package() -> None:
    async with http_app(FakeGenerator()) as service:
        assert (await service.http.get("/version")).json() == {"version": __version__}


async def test_metrics_are_the_generators_in_prometheus_text_format() -> None:
    generator = FakeGenerator()
    async with http_app(generator) as service:
        response = await service.http.get("/metrics")
    assert (response.status_code, response.content) == (200, generator.metrics())
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_served_model_is_listed_and_described() -> None:
    async with http_app(FakeGenerator(model=served_model(name="org/name"))) as service:
        listed = (await service.http.get("/v1/models")).json()
        described = (await service.http.get("/v1/models/org/name")).json()
        assert (await service.http.get("/v1/models/other")).status_code == 404
    assert listed == {"object": "list", "data": [described]}
    assert (described["id"], described["object"], described["owned_by"]) == ("org/name", "model", "qllm")
    assert described["max_model_len"] == 512


async def test_a_model_of_several_names_answers_to_each_and_calls_itself_by_the_first() -> None:
    async with http_app(FakeGenerator(model=served_model(name="org/name", other_names=("name",)))) as service:
        listed = (await service.http.get("/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["org/name", "name"]
        assert (await service.http.get("/v1/models/name")).json() == listed[1]
        for name in ("org/name", "name"):
            assert (await service.answer(COMPLETIONS, model=name, prompt="hello"))["model"] == "org/name"
        refused = await service.post(COMPLETIONS, model="other", prompt="hello")
        assert refused.status_code == 404
        assert error_of(refused)["message"] == "model: got 'other', allowed is 'org/name' or 'name', which is served"


async def test_where_a_model_lies_is_told_to_nobody() -> None:
    async with http_app(FakeGenerator(model=served_model(name="small", other_names=("/srv/small",)))) as service:
        listed = (await service.http.get("/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["small"]
        assert (await service.answer(COMPLETIONS, model="/srv/small", prompt="hello"))["model"] == "small"
        assert "/srv" not in (await service.post(COMPLETIONS, model="other", prompt="hello")).text
        assert "/v1/models/{model_id}" in (await service.http.get("/")).json()["paths"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/fake"])
async def test_without_worker_no_model_is_served(path: str) -> None:
    async with http_app(FakeGenerator(model=None, worker_state=WorkerState.ABSENT)) as service:
        for response in (await service.http.get(path), await service.post(COMPLETIONS, prompt="hello")):
            assert response.status_code == 503
            assert "no worker" in error_of(response)["message"]


async def test_schema_of_the_api_tells_the_fields() -> None:
    async with http_app(FakeGenerator()) as service:
        schema = (await service.http.get("/openapi.json")).json()
    assert "service_tier" in json.dumps(schema["components"]["schemas"]["CompletionRequest"])


async def test_stop_lets_running_answers_end_and_refuses_new_ones() -> None:
    generator = FakeGenerator(hold_after=1)
    async with running_http(generator, grace_s=10) as service:
        asking = asyncio.create_task(service.post(COMPLETIONS, prompt="hello", stream=True))
        async with asyncio.timeout(300):
            while not generator.live:  # noqa: ASYNC110  (the fake has no event for it)
                await asyncio.sleep(0.005)
        stopping = asyncio.create_task(service.server.stop())
        await asyncio.sleep(0)
        async with httpx2.AsyncClient(base_url=service.http.base_url) as other:
            with suppress(httpx2.TransportError):  # once its socket is closed
                assert (await other.get("/version")).status_code == 503
        for request_id in list(generator.live):
            generator.abort(request_id)
        assert events_of((await asking).text)[-1] == "[DONE]"
        async with asyncio.timeout(300):
            await stopping


async def test_answers_that_outlive_the_grace_end_with_an_error(caplog: pytest.LogCaptureFixture) -> None:
    generator = FakeGenerator(hold_after=1)
    async with running_http(generator, grace_s=0.1) as service:
        streaming = asyncio.create_task(service.post(COMPLETIONS, prompt="hello", stream=True))
        asking = asyncio.create_task(service.post(COMPLETIONS, prompt="hello"))
        async with asyncio.timeout(300):
            while len(generator.live) < 2:  # noqa: ASYNC110  (the fake has no event for it)
                await asyncio.sleep(0.005)
            await service.server.stop()
            *_, last = events_of((await streaming).text)
            assert json.loads(last)["error"]["message"] == "the service is stopping"
            assert (await asking).status_code == 503
        assert len(generator.closed_early) == 2
    assert caplog.records == []


async def test_stream_that_has_not_begun_when_the_service_stops_has_a_status() -> None:
    generator = FakeGenerator(hold_after=0)
    async with running_http(generator, grace_s=0.1) as service:
        streaming = asyncio.create_task(service.post(COMPLETIONS, prompt="hello", stream=True))
        async with asyncio.timeout(10):
            while not generator.live:  # noqa: ASYNC110  (the fake has no event for it)
                await asyncio.sleep(0.005)
            await service.server.stop()
            response = await streaming
    assert response.status_code == 503
    assert error_of(response)["message"] == "the service is stopping"
    assert response.headers["retry-after"]


async def test_body_that_does_not_come_is_refused_in_time() -> None:
    app = RequestGuard(lambda scope, receive, send: asyncio.sleep(0), body_timeout_s=0.05)
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    async with asyncio.timeout(300):
        await app({"type": "http", "headers": []}, receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]  # type: ignore[operator]


def test_port_that_is_taken_is_refused() -> None:
    generator = FakeGenerator()

    def server(port: int) -> OpenAiServer:
        return openai_server(generator, port=port)

    first = server(0)
    first.bind()
    try:
        with pytest.raises(OSError, match="in use"):
            server(first.port).bind()
    finally:
        asyncio.run(first.stop())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
async def test_server_listens_where_it_is_told(host: str) -> None:
    generator = FakeGenerator()
    server = openai_server(generator, host)
    try:
        server.bind()
    except OSError as error:
        pytest.skip(f"this machine has no {host}: {error}")
    serving = server.start()
    name = f"[{host}]" if ":" in host else host
    async with httpx2.AsyncClient() as http:
        assert (await http.get(f"http://{name}:{server.port}/health")).status_code == 200
    await server.stop()
    assert serving.done()


def config(port: int | None) -> Config:
    return Config(control_endpoint="ipc:///nowhere", http_port=port)


async def test_http_is_off_unless_asked_for() -> None:
    code = (
        "import sys, scheduler_svc.__main__; "
        "sys.exit(any(n in sys.modules for n in ('fastapi', 'uvicorn', 'pydantic')))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"}
    importing = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, env=environment)
    assert await importing.wait() == 0
    assert config(None).http_port is None


async def test_missing_extra_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "scheduler_svc.api.openai.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SettingRefused, match=r"--http-port: .*pip install 'qllm\[http\]'.*uvicorn"):
        Service(config(0))


@pytest.mark.parametrize("port", [-1, 65536])
def test_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(SettingRefused, match=rf"--http-port: got {port}, allowed is 0 to 65535"):
        config(port)


def test_service_refuses_to_start_on_a_port_that_is_taken() -> None:
    port = free_port()
    command = [sys.executable, "-m", "scheduler_svc", "--control-endpoint", "ipc:///nowhere", "--http-port", str(port)]
    generator = FakeGenerator()
    first = openai_server(generator, port=port)
    first.bind()
    try:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    finally:
        asyncio.run(first.stop())
    assert done.returncode == 2
    assert f"--http-port: got 127.0.0.1:{port}, which cannot be listened on: Address already in use" in done.stderr
