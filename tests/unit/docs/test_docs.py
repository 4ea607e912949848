"""The documentation keeps its own rules: its links lead somewhere, and its pages stay as short as they promise."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[3]
_PAGES = [_ROOT / "README.md", _ROOT / "SECURITY.md", *sorted((_ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PROSE_WIDTH = 100
_FENCE = "```"


@pytest.fixture(params=_PAGES, ids=lambda path: str(path.relative_to(_ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def lines_of_prose(text: str) -> Iterator[str]:
    """Yields the lines that are neither code nor a table's, and of links only what is read."""
    is_code = False
    for line in text.splitlines():
        if line.lstrip().startswith(_FENCE):
            is_code = not is_code
        elif not is_code and not line.startswith("|"):
            yield _LINK.sub("]", line)


def anchor_of(heading: str) -> str:
    """Returns what GitHub makes of a heading: the end of a link to it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor_of(line.lstrip("# ")) for line in page.read_text().splitlines() if line.startswith("#")}


def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    for link in _LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_prose_is_no_wider_than_a_hundred_columns(page: Path) -> None:
    wide = [line for line in lines_of_prose(page.read_text()) if len(line) > _PROSE_WIDTH]
    assert not wide


def test_every_page_is_reached_from_the_index() -> None:
    index = _ROOT / "docs" / "index.md"
    linked = {(index.parent / link).resolve() for link in _LINK.findall(index.read_text())}
    assert set(_PAGES) - {index} <= linked


def test_progress_is_one_page() -> None:
    assert len((_ROOT / "docs" / "progress.md").read_text().splitlines()) <= 60


def test_results_are_one_page() -> None:
    assert len((_ROOT / "docs" / "results.md").read_bytes()) <= 6000


@pytest.mark.parametrize("page", ["guarantees.md", "security.md"])
def test_every_claim_names_tests_that_exist(page: str) -> None:
    claims = re.findall(r"`(test_\w+)`", (_ROOT / "docs" / page).read_text())
    tests = "".join(path.read_text() for path in (_ROOT / "tests").rglob("test_*.py"))
    assert claims
    assert [claim for claim in claims if f"def {claim}(" not in tests] == []
