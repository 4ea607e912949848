"""Cost tables are read whole or refused by name of what is wrong; the ones that are shipped say what they claim to."""

import json
from pathlib import Path

import pytest

from gpu_worker.settings import ConfigRefused
from gpu_worker.simulated.cost_table import CostTable, load_cost_table, parse_cost_table, shipped_tables
from tests.control_channel import ROOT

TABLE: dict[str, object] = {
    "name": "small",
    "source": "a test",
    "num_layers": 3,
    "num_experts": 4,
    "num_experts_per_token": 2,
    "max_model_len": 512,
    "num_blocks": 16,
    "num_host_blocks": 2,
    "attention_us": {"fixed": 100, "per_token": 10, "per_pair": 1},
    "expert_us": {"fixed": 50, "per_token": 5},
    "head_us": {"fixed": 30, "per_row": 3},
}


def table(**changes: object) -> CostTable:
    return parse_cost_table({**TABLE, **changes})


def test_costs_are_linear_in_what_is_counted() -> None:
    costs = table()
    assert costs.attention_ns(2, 7) == 127_000
    assert costs.expert_ns(4) == 70_000
    assert costs.head_ns(5) == 45_000
    assert not costs.is_free


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_layers": 0}, "num_layers: got 0, allowed is 1 to 10000"),
        ({"num_layers": 2.0}, "num_layers: got 2.0, allowed is a whole number"),
        ({"num_blocks": True}, "num_blocks: got True"),
        ({"num_experts_per_token": 5}, "num_experts_per_token: got 5, allowed is 1 to 4"),
        ({"expert_us": {"fixed": 1}}, "expert_us: got .*, allowed is an object of fixed, per_token"),
        ({"expert_us": {"fixed": -1, "per_token": 0}}, r"expert_us\.fixed: got -1"),
        ({"expert_us": {"fixed": float("nan"), "per_token": 0}}, r"expert_us\.fixed: got nan"),
        ({"expert_us": {"fixed": "1", "per_token": 0}}, r"expert_us\.fixed: got '1', allowed is a number"),
        ({"speed": 1}, "not known: speed"),
    ],
)
def test_table_with_a_wrong_value_is_refused_by_its_name(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigRefused, match=reason):
        table(**changes)


@pytest.mark.parametrize(("content", "reason"), [("[]", "got list"), ("{", "Expecting"), ("{}", "missing")])
def test_file_that_holds_no_table_is_refused_by_its_name(content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(ConfigRefused, match=f"--simulated: .*{path.name}.*{reason}"):
        load_cost_table(str(path))


def test_missing_file_is_refused_with_the_tables_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused, match="a100-mixtral-8x7b, zero"):
        load_cost_table(str(tmp_path / "none.json"))


def test_table_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(TABLE))
    assert load_cost_table(str(path)) == table()


@pytest.mark.parametrize("name", shipped_tables())
def test_shipped_table_says_where_it_is_from(name: str) -> None:
    assert len(load_cost_table(name).source) > 40


def test_zero_is_free() -> None:
    assert load_cost_table("zero").is_free


def test_a_decode_iteration_of_32_takes_what_the_paper_says_of_the_a100() -> None:
    costs = load_cost_table("a100-mixtral-8x7b")
    num_sequences, context = 32, 512
    layer_ns = costs.attention_ns(num_sequences, num_sequences * context) + 8 * costs.expert_ns(num_sequences * 2 // 8)
    assert 300e6 <= costs.num_layers * layer_ns + costs.head_ns(num_sequences) <= 400e6


def test_the_simulator_of_the_core_ships_the_same_numbers() -> None:
    ours, theirs = (ROOT / package / "cost_tables" for package in ("gpu_worker", "scheduler_svc/simulation"))
    for path in theirs.glob("*.json"):
        assert json.loads(path.read_text()) == json.loads((ours / path.name).read_text())
