"""A response's output from what chats say: thoughts, text and calls become items, whole or in parts."""

from typing import Any

import pytest

from scheduler_svc.api.openai.responses.output import COMPLETED, INCOMPLETE, Output

CALLS = [
    {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
    {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
]
MESSAGE = {"role": "assistant", "reasoning_content": "Let me see.", "content": "I look.", "tool_calls": CALLS}


def call(index: int, **function: str) -> dict[str, Any]:
    first = {"id": f"call_{index + 1}", "type": "function"} if "name" in function else {}
    return {"tool_calls": [{"index": index, **first, "function": function}]}


PARTS = [
    {"role": "assistant", "content": ""},
    {"reasoning_content": "Let me "},
    {"reasoning_content": "see."},
    {"content": "I "},
    {"content": "look."},
    call(0, name="weather", arguments=""),
    call(0, arguments='{"city"'),
    call(0, arguments=': "Oslo"}'),
    call(1, name="time", arguments="{}"),
    {"content": ""},
]


def taken(parts: list[dict[str, Any]], status: str = COMPLETED) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The events, and the output at their end."""
    output = Output("resp_1")
    events = [event for part in parts for event in output.take(part, [])]
    events += output.end(status)
    return events, output.shown()


@pytest.mark.parametrize("parts", [[MESSAGE], PARTS], ids=["whole", "parts"])
def test_thoughts_text_and_calls_are_items_in_their_order(parts: list[dict[str, Any]]) -> None:
    events, items = taken(parts)
    assert items == [
        {
            "id": "rs_1_0",
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Let me see."}],
            "status": "completed",
        },
        {
            "id": "msg_1_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}],
        },
        {
            "id": "fc_1_2",
            "type": "function_call",
            "call_id": "call_1",
            "name": "weather",
            "arguments": '{"city": "Oslo"}',
            "status": "completed",
        },
        {
            "id": "fc_1_3",
            "type": "function_call",
            "call_id": "call_2",
            "name": "time",
            "arguments": "{}",
            "status": "completed",
        },
    ]
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [event["item"] for event in done] == items
    assert [event["output_index"] for event in done] == [0, 1, 2, 3]


def test_a_call_is_told_as_it_is_written() -> None:
    events, items = taken(PARTS[5:8])
    assert [event["type"] for event in events] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    assert events[0]["item"] == {**items[0], "arguments": "", "status": "in_progress"}
    assert events[3]["arguments"] == "".join(event["delta"] for event in events[1:3]) == items[0]["arguments"]
    assert {event["item_id"] for event in events[1:4]} == {items[0]["id"]}


def test_only_what_was_being_written_is_cut_off() -> None:
    _, items = taken(PARTS[:5], INCOMPLETE)
    assert [item["status"] for item in items] == ["completed", "incomplete"]


def test_an_answer_of_calls_has_no_empty_message() -> None:
    _, items = taken([{"role": "assistant", "content": None, "tool_calls": CALLS}])
    assert [item["type"] for item in items] == ["function_call", "function_call"]
