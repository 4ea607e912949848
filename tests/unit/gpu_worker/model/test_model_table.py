"""What docs/families.md says of a family is what becomes of it."""

import re
from pathlib import Path

import pytest
import torch
import transformers

from scripts.model_table import judge
from tests.support.models.families import mixture_families

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of whatever all families import

_ROW = re.compile(r"^\| (\w+) \| (works|refused|differs) \|", re.MULTILINE)
_TEXT = Path("docs/families.md").read_text()
_TABLE = dict(_ROW.findall(_TEXT))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(("family", "outcome"), _TABLE.items())
def test_a_family_does_as_the_table_says(family: str, outcome: str) -> None:
    if family not in mixture_families():
        pytest.skip("this transformers does not have it")
    verdict = judge(family)
    if verdict.outcome == "untested" and f"transformers {transformers.__version__}:" not in _TEXT:
        pytest.skip(f"another transformers than the table's: {verdict.note}")
    assert verdict.outcome == outcome


def test_no_family_differs_from_generate() -> None:
    assert len(_TABLE) > 50
    assert "differs" not in _TABLE.values()
