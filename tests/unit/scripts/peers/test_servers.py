import sys
from pathlib import Path

import pytest

from scripts.peers.goodput import servers_of
from scripts.peers.servers import Server, ServerFailed, qllm, running, vllm

VENV = Path("/venv")


def test_goodput_is_searched_of_each_policy_each_budget_and_the_other_peer() -> None:
    servers = list(servers_of("model", "float32", VENV, ["0-1"], VENV))
    assert [server.label for server in servers] == [
        *("QLLM", "QLLM fcfs", "QLLM priority-iteration"),
        *("vLLM 128 cores 0-1", "vLLM 256 cores 0-1", "vLLM 2048 cores 0-1"),
        "transformers serve",
    ]
    assert len({server.slug for server in servers}) == len(servers)
    assert [server.bench[:2] for server in (servers[0], servers[3], servers[6])] == [
        ["--priority-field", "service_tier"],
        ["--priority-field", "priority"],
        ["--priority-field", "none"],
    ]


def test_peers_that_are_not_installed_are_left_out() -> None:
    assert [server.label for server in servers_of("model", "float32", None, [], None)] == [
        *("QLLM", "QLLM fcfs", "QLLM priority-iteration")
    ]


def test_what_a_server_is_told_is_in_its_label() -> None:
    plain = qllm("model", "float32")
    assert plain.label == "QLLM"
    assert not {"--policy", "--ls-tpot-ms"} & set(plain.command)
    told = qllm("model", "float32", num_threads=2, ls_tpot_ms=20, policy="fcfs")
    assert told.label == "QLLM fcfs 2 threads tpot 20"
    assert told.command[told.command.index("--policy") :][:2] == ["--policy", "fcfs"]
    assert told.command[told.command.index("--ls-tpot-ms") :][:2] == ["--ls-tpot-ms", "20"]


def test_a_server_that_ends_by_itself_is_said_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = Server("broken", [sys.executable, "-c", "print('no'); raise SystemExit(3)"], [])
    with pytest.raises(ServerFailed, match=f"ended with exit code 3; its log is {log}"), running(server, log):
        pass
    assert log.read_text() == "no\n"


def test_prefixes_are_shared_by_the_peer_where_that_is_asked_for() -> None:
    wanted = {"--enable-prefix-caching", "--enable-prompt-tokens-details"}
    assert wanted <= set(vllm(VENV, "model", "float32", 2048, None, shares_prefixes=True).command)
    assert not wanted & set(vllm(VENV, "model", "float32", 2048, None).command)
