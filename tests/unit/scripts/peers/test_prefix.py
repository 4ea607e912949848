from typing import Any

from scripts.peers.prefix import side_by_side


def result(label: str, ttft_ms: float) -> dict[str, Any]:
    mean = {"value": ttft_ms, "count": 3, "error": 1.0}
    means = {"shared": {"ttft_ms": mean, "hit_percent": None}, "apart": {"ttft_ms": mean | {"value": 999.0}}}
    return {"label": label, "parts": {"turns": {"means": means}}}


def test_servers_are_compared_round_by_round_by_the_way_that_shares() -> None:
    rounds = [result("QLLM", 10.0), result("vLLM", 20.0), result("vLLM", 30.0), result("QLLM", 10.0)]
    means, ratios = side_by_side(rounds)
    assert means.title == "Conversations: shared"
    assert means.header == ("", "QLLM", "vLLM")
    assert means.rows == (("TTFT, mean ms", "10.0 ± 0.0", "25.0 ± 5.0"),)
    assert ratios.rows == (("TTFT, mean ms", "2.500 ± 0.500x"),)


def test_one_server_alone_has_no_ratios() -> None:
    (means,) = side_by_side([result("QLLM", 10.0)])
    assert means.rows == (("TTFT, mean ms", "10.0"),)
