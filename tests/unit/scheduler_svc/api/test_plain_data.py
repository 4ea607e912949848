"""Plain data of a request is bounded by a look at no more of it than it may have."""

import json

import pytest

from scheduler_svc.api.plain_data import MAX_DEPTH, require_size
from scheduler_svc.errors import InvalidRequest
from tests.support.service.fakes import FakeGenerator, served_model
from tests.support.service.openai_service import CHAT, USER_SAYS_HI, http_app


class NotLookedAt(dict[str, object]):
    """Fails whoever looks into it."""

    def __len__(self) -> int:
        raise AssertionError("it was looked at")


def nested(depth: int) -> object:
    value: object = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize("value", [{}, [], {"a": [1, None, True, "x\u65e5"]}, "", {"": {"": []}}])
def test_what_is_as_large_as_it_may_be_is_taken_and_one_byte_more_is_not(value: object) -> None:
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    assert require_size("f", value, size) == size
    with pytest.raises(InvalidRequest, match=f"at most {size - 1} bytes of JSON"):
        require_size("f", value, size - 1)


@pytest.mark.parametrize(
    "value",
    [
        ["x" * 100, NotLookedAt()],
        [[None] * 100, NotLookedAt()],
        [dict.fromkeys(map(str, range(30))), NotLookedAt()],
        [{"x" * 100: 1}, NotLookedAt()],
    ],
)
def test_what_is_too_large_is_not_looked_at_to_its_end(value: object) -> None:
    with pytest.raises(InvalidRequest, match=r"more than 50 bytes, allowed is at most 50 bytes"):
        require_size("f", value, 50)


def test_levels_are_counted() -> None:
    require_size("f", nested(MAX_DEPTH - 1), 10_000)
    with pytest.raises(InvalidRequest, match="levels"):
        require_size("f", nested(MAX_DEPTH), 10_000)


@pytest.mark.parametrize("value", ["\ud83d", {"\ud83d": 1}])
def test_halves_of_characters_are_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        require_size("f", value, 100)


async def test_schemas_of_megabytes_are_refused_by_name() -> None:
    function = {"name": "f", "parameters": {"properties": {"a": {"enum": [[]] * 100_000}}}}
    async with http_app(FakeGenerator(served_model())) as service:
        for body, field in (
            ({"tools": [{"type": "function", "function": function}]}, "tools[0]"),
            ({"chat_template_kwargs": {"a": [[]] * 100_000}}, "chat_template_kwargs"),
        ):
            response = await service.post(CHAT, messages=USER_SAYS_HI, **body)
            assert response.status_code == 400
            assert response.json()["error"]["param"] == field
