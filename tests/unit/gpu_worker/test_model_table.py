"""What docs/models.md says of a family is what becomes of it."""

import re
from pathlib import Path

import pytest
import torch

from scripts.model_table import judge
from tests.families import mixture_families

_ROW = re.compile(r"^\| (\w+) \| (works|refused|differs) \|", re.MULTILINE)
_TABLE = dict(_ROW.findall(Path("docs/models.md").read_text()))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(("family", "outcome"), _TABLE.items())
def test_a_family_does_as_the_table_says(family: str, outcome: str) -> None:
    if family not in mixture_families():
        pytest.skip("this transformers does not have it")
    assert judge(family).outcome == outcome


def test_no_family_differs_from_generate() -> None:
    assert len(_TABLE) > 50
    assert "differs" not in _TABLE.values()
