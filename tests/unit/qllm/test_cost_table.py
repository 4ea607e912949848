"""Cost tables are read whole or refused by name of what is wrong; the ones that are shipped say what they claim to."""

import pytest
from qllm.cost_table import CostTable, CostTableRefused, parse_cost_table, shipped_tables

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
MOVING = {"block_bytes": 1 << 20, "offload_gib_per_s": 2, "restore_gib_per_s": 4}


def table(**changes: object) -> CostTable:
    return parse_cost_table({**TABLE, **changes})


def test_costs_are_linear_in_what_is_counted() -> None:
    costs = table()
    assert costs.attention_ns(2, 7) == 127_000
    assert costs.expert_ns(4) == 70_000
    assert costs.head_ns(5) == 45_000
    assert not costs.is_free


def test_moving_takes_time_by_its_bytes_and_speed_and_none_where_the_table_does_not_say() -> None:
    costs = table(moving=MOVING)
    assert costs.offload_ns(1024) == 500_000_000
    assert costs.restore_ns(1024) == 250_000_000
    assert (table().offload_ns(1024), table().restore_ns(1024)) == (0, 0)


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
        ({"expert_us": {"fixed": 1, "per_token": 1, "row": 0}}, "expert_us: got row, allowed is an object of fixed"),
        ({"expert_us": 7}, "expert_us: got 7, allowed is an object of fixed"),
        ({"speed": 1}, "not known: speed"),
        ({"moving": {"block_bytes": 1}}, "moving: got block_bytes, allowed is an object of block_bytes, offload_gib"),
        ({"moving": 3}, "moving: got 3, allowed is an object"),
        ({"moving": {**MOVING, "block_bytes": 0}}, r"moving\.block_bytes: got 0, allowed is 1 to"),
        ({"moving": {**MOVING, "restore_gib_per_s": 0}}, r"moving\.restore_gib_per_s: got 0, allowed is 0\.001 to"),
        ({"moving": {**MOVING, "offload_gib_per_s": "1"}}, r"moving\.offload_gib_per_s: got '1', allowed is a number"),
    ],
)
def test_table_with_a_wrong_value_is_refused_by_its_name(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(CostTableRefused, match=reason):
        table(**changes)


@pytest.mark.parametrize("name", shipped_tables())
def test_shipped_table_says_where_it_is_from(name: str) -> None:
    assert len(parse_cost_table(shipped_tables()[name]).source) > 40


def test_zero_is_free() -> None:
    assert parse_cost_table(shipped_tables()["zero"]).is_free


def test_a_decode_iteration_of_32_takes_what_the_paper_says_of_the_a100() -> None:
    costs = parse_cost_table(shipped_tables()["a100-mixtral-8x7b"])
    num_sequences, context = 32, 512
    layer_ns = costs.attention_ns(num_sequences, num_sequences * context) + 8 * costs.expert_ns(num_sequences * 2 // 8)
    assert 300e6 <= costs.num_layers * layer_ns + costs.head_ns(num_sequences) <= 400e6


@pytest.mark.parametrize(
    ("name", "num_sequences", "milliseconds"),
    [
        ("h200-mixtral-8x7b", 1, 7),
        ("h200-mixtral-8x7b", 8, 23),
        ("h200-mixtral-8x7b", 32, 27),
        ("zen3-mini-mixtral", 1, 22),
        ("zen3-mini-mixtral", 8, 50),
        ("zen4-mini-mixtral", 1, 20),
        ("zen4-mini-mixtral", 8, 47),
        ("zen5-mini-mixtral", 1, 12),
        ("zen5-mini-mixtral", 8, 25),
    ],
)
def test_a_decode_iteration_at_1000_tokens_of_context_takes_what_the_page_of_simulations_says(
    name: str, num_sequences: int, milliseconds: float
) -> None:
    costs = parse_cost_table(shipped_tables()[name])
    chosen = costs.num_experts_per_token / costs.num_experts
    expert_us = costs.expert_us[0] * (1 - (1 - chosen) ** num_sequences) + costs.expert_us[1] * num_sequences * chosen
    layer_ns = costs.attention_ns(num_sequences, 1000 * num_sequences) + costs.num_experts * expert_us * 1e3
    iteration_ns = costs.num_layers * layer_ns + costs.head_ns(num_sequences)
    assert iteration_ns * 1e-6 == pytest.approx(milliseconds, abs=0.5)


def test_a_refusal_names_the_place_that_the_table_stands_in() -> None:
    with pytest.raises(CostTableRefused, match=r"^job\.table\.head_us\.per_row: got -1"):
        parse_cost_table({**TABLE, "head_us": {"fixed": 0, "per_row": -1}}, "job.table")
    with pytest.raises(CostTableRefused, match=r"^job\.table: got list, allowed is an object"):
        parse_cost_table([], "job.table")
