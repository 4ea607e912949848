import pytest

from scheduler_svc.errors import InvalidRequest
from scheduler_svc.jobs import limits
from scheduler_svc.jobs.limits import ItemsSoFar

MOST = limits.MAX_ITEM_BYTES


@pytest.mark.parametrize(
    ("items", "field"),
    [
        ([("", 0)], "custom_id"),
        ([("a" * 257, 0)], "custom_id"),
        ([("a", 0), ("a", 0)], "custom_id"),
        ([("a\0", 0)], "custom_id"),
        ([("\ud800", 0)], "custom_id"),
        ([("a", MOST + 1)], "item"),
        ([(str(number), 0) for number in range(limits.MAX_ITEMS + 1)], "items"),
        ([(str(number), MOST) for number in range(51)], "items"),
    ],
    ids=["no id", "a long id", "an id twice", "NUL", "a surrogate", "a large one", "many", "large ones together"],
)
def test_items_that_a_job_can_not_have_are_refused(items: list[tuple[str, int]], field: str) -> None:
    so_far = ItemsSoFar()
    for custom_id, num_bytes in items[:-1]:
        so_far.take("custom_id", custom_id, num_bytes)
    with pytest.raises(InvalidRequest) as refused:
        so_far.take("custom_id", *items[-1])
    assert refused.value.field == field


@pytest.mark.parametrize(
    "metadata",
    [
        {str(number): "" for number in range(17)},
        {"": "a"},
        {"k" * 65: "a"},
        {"a": "v" * 513},
        {"a": "\0"},
        {"a": "\ud800"},
    ],
    ids=["many", "no name", "a long name", "a long value", "NUL", "a surrogate"],
)
def test_words_that_can_not_be_kept_with_a_job_are_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="metadata"):
        limits.require_metadata("metadata", metadata)


@pytest.mark.parametrize("key", ["k" * 129, "ä", "a\n", "\0"])
def test_keys_that_are_not_short_and_plain_are_refused(key: str) -> None:
    with pytest.raises(InvalidRequest, match="key"):
        limits.require_idempotency_key("key", key)


@pytest.mark.parametrize("window_s", [0.0, 0.5, 30 * 86400 + 1.0, float("nan"), float("inf")])
def test_windows_that_are_too_short_or_too_long_are_refused(window_s: float) -> None:
    with pytest.raises(InvalidRequest, match="window"):
        limits.require_window("window", window_s)


def test_what_is_just_within_the_limits_is_allowed() -> None:
    limits.require_idempotency_key("key", "k" * 128)
    limits.require_metadata("metadata", {f"{number:064}": "v" * 512 for number in range(16)})
    limits.require_window("window", 30 * 86400.0)
    ItemsSoFar().take("custom_id", "ä" * 256, MOST)
