"""What a checkpoint calls a token is believed only if the vocabulary has it."""

from pathlib import Path

import pytest

from gpu_worker.checkpoint.token_ids import valid_token_ids
from gpu_worker.model.loader import load_model
from tests.support.models.families import random_model


@pytest.mark.parametrize(
    ("named", "valid", "left_out"),
    [
        (None, (), None),
        (5, (5,), None),
        ([1, 2], (1, 2), None),
        ([1, 99999, -1], (1,), "[99999, -1]"),
        (-1, (), "[-1]"),
        (512, (), "[512]"),
        ([[3], [512]], (3,), "[512]"),
        ("1", (), "['1']"),
        (True, (), "[True]"),
        ([1, True, 1.0], (1,), "[True, 1.0]"),
        ({"a": 1}, (), "[{'a': 1}]"),
        (10**30, (), f"[{10**30}]"),
    ],
)
def test_what_is_no_token_is_left_out_with_a_warning_that_names_it(
    named: object, valid: tuple[int, ...], left_out: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert valid_token_ids(named, 512, "config.json: eos_token_id") == valid
    said = [record.getMessage() for record in caplog.records]
    assert [left_out in one and one.startswith("config.json: eos_token_id: left out") for one in said if left_out] == (
        [] if left_out is None else [True]
    )


@pytest.mark.parametrize("wrong", [-1, 99999])
def test_an_end_token_beyond_the_vocabulary_never_reaches_the_scheduler(wrong: int, tmp_path: Path) -> None:
    model = random_model("mixtral", eos_token_id=[2, wrong])
    model.generation_config.eos_token_id = [7, wrong]
    model.save_pretrained(tmp_path)
    assert load_model(str(tmp_path)).facts.eos_token_ids == (2, 7)
