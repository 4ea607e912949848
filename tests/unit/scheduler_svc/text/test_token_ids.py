"""Prompts that wait share the objects of their token ids."""

from scheduler_svc.text.token_ids import TokenIds


def test_equal_ids_of_different_prompts_are_one_object() -> None:
    ids = TokenIds(5000)
    given = [int(word) for word in ("4000", "4999", "0")]
    one, other = ids.kept(given), ids.kept(tuple(int(word) for word in ("4000", "4999", "0")))
    assert one == other == (4000, 4999, 0)
    assert all(mine is theirs for mine, theirs in zip(one, other, strict=True))
