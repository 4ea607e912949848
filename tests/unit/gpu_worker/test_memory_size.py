"""Amounts of memory are read as they are written, and everything else is refused with what is allowed."""

import pytest

from gpu_worker.memory_size import parse_memory_size

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("2GiB", 2 * GIB),
        ("512MiB", GIB // 2),
        ("0.5 gib", GIB // 2),
        ("1TiB", 1024 * GIB),
        ("25%", GIB),
        ("100 %", 4 * GIB),
    ],
)
def test_a_size_is_so_much_and_a_share_is_of_what_is_free(text: str, num_bytes: int) -> None:
    assert parse_memory_size(text).of(4 * GIB) == num_bytes


@pytest.mark.parametrize(("text", "left"), [("2GiB", GIB), ("25%", 3 * GIB // 4), ("1MiB", 0)])
def test_what_is_given_away_already_comes_off(text: str, left: int) -> None:
    assert parse_memory_size(text).of(4 * GIB, taken_bytes=GIB) == left


@pytest.mark.parametrize("text", ["", "2", "2GB", "0GiB", "-1GiB", "nan%", "0%", "101%", "1e3MiB", "GiB", "2GiB 3GiB"])
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="allowed is a size such as 2GiB") as refused:
        parse_memory_size(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("number", ["9" * 400, "9" * 300, "2000000"])
@pytest.mark.parametrize("unit", ["TiB", "%"])
def test_a_number_that_no_machine_has_is_refused_and_not_repeated_in_full(number: str, unit: str) -> None:
    with pytest.raises(ValueError, match="allowed is a size such as 2GiB") as refused:
        parse_memory_size(number + unit)
    assert number[:7] in str(refused.value)
    assert len(str(refused.value)) < 200
