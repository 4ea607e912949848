"""A model whose chat template never ends, or asks for all memory, is served all the same: but for chats."""

import http.client
import json
import shutil
from pathlib import Path

import grpc
import pytest
from qllm.v1 import inference_pb2 as pb

from tests.support.service.live_service import ROOT, free_port, start_service
from tests.support.service.simulated_worker import INSTANT

HARMFUL = {
    "loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "longer than 2 s"),
    "asks for memory": ("{{ 'a' * 2 * 10 ** 9 }}", "more than 512 MiB"),
}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, json.dumps(body) if body else None, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("harm", HARMFUL)
def test_a_harmful_template_harms_chats_alone(harm: str, log: Path, tmp_path: Path) -> None:
    source, words = HARMFUL[harm]
    model, port = tmp_path / "model", free_port()
    shutil.copytree(ROOT / "demo" / "model", model)
    (model / "chat_template.jinja").write_text(source)
    with start_service(model, log, "--http-port", str(port), worker_options=INSTANT) as service:
        status, answer = ask(port, "POST", "/v1/chat/completions", CHAT)
        assert status == 400
        assert f"the model's chat template took {words}" in json.loads(answer)["error"]["message"]
        assert ask(port, "GET", "/health")[0] == 200
        with service.channel() as channel:
            stub = service.inference(channel)
            with pytest.raises(grpc.RpcError) as caught:
                list(stub.Generate(pb.GenerateRequest(chat=pb.ChatPrompt(messages=[pb.ChatMessage(role="user")]))))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert words in caught.value.details()
            assert list(stub.Generate(pb.GenerateRequest(text="hi", stop=pb.StopConditions(max_tokens=2))))
    assert service.process.returncode == 0
    assert log.read_text().count("chat requests are refused") == 1
