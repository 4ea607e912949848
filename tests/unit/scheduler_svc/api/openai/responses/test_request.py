"""A request for a response as one of chat completions: items become messages, flat tools become a chat's."""

import time

import pytest

from scheduler_svc.api.openai.responses.conversation import Conversation
from scheduler_svc.api.openai.responses.request import chat_body
from scheduler_svc.api.openai.responses.schema import ResponsesRequest
from scheduler_svc.api.prompt import MAX_CHAT_MESSAGES
from scheduler_svc.api.tools import MAX_TOOLS
from scheduler_svc.errors import InvalidRequest, MissingField, UnknownField

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ITEMS = [
    {"role": "user", "content": "How is it outside?"},
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}],
    },
    {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "a",
        "name": "weather",
        "arguments": "{}",
        "status": "completed",
    },
    {"type": "function_call", "call_id": "b", "name": "time", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "a", "output": "rain"},
    {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "noon"}]},
]


def asked(**body: object) -> dict[str, object]:
    return chat_body(ResponsesRequest.model_validate(body))[0]


def test_items_are_turns_and_the_calls_of_one_turn_are_in_one_message() -> None:
    assert asked(input=ITEMS, instructions="Be brief.")["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How is it outside?"},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "I look."}],
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
                {"id": "b", "type": "function", "function": {"name": "time", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "noon"}]},
    ]


def thought(text: str) -> dict[str, object]:
    return {"type": "reasoning", "content": [{"type": "reasoning_text", "text": text}]}


def call(number: int) -> dict[str, object]:
    return {"type": "function_call", "call_id": f"call {number}", "name": "f", "arguments": "{}"}


def test_thoughts_between_the_calls_of_a_turn_stay_with_that_turn() -> None:
    items = [ITEMS[0], thought("First."), call(0), thought("Then."), call(1), ITEMS[5], ITEMS[2]]
    _, calls, _, last = asked(input=items)["messages"]  # type: ignore[misc]
    assert calls["reasoning_content"] == "First.\nThen."
    assert len(calls["tool_calls"]) == 2
    assert "reasoning_content" not in last


@pytest.mark.parametrize("after", [[], [ITEMS[0], ITEMS[2]]], ids=["at the end", "before a question"])
def test_thoughts_that_came_to_no_words_are_no_later_answers(after: list[dict[str, object]]) -> None:
    messages = asked(input=[ITEMS[0], thought("Hm."), *after])["messages"]
    assert isinstance(messages, list)
    assert messages[1] == {"role": "assistant", "content": "", "reasoning_content": "Hm."}
    assert [message["role"] for message in messages[2:]] == ["user", "assistant"][: len(after)]
    assert all("reasoning_content" not in message for message in messages[2:])


def test_thoughts_behind_an_answer_stay_with_it() -> None:
    messages = asked(input=[ITEMS[0], ITEMS[2], thought("Hm."), ITEMS[0]])["messages"]
    assert [message.get("reasoning_content") for message in messages] == [None, "Hm.", None]  # type: ignore[attr-defined]


def test_more_calls_in_a_turn_than_may_be_are_refused_at_the_first_too_many() -> None:
    body = ResponsesRequest.model_validate({"input": [ITEMS[0], *map(call, range(MAX_TOOLS + 5))]})
    with pytest.raises(InvalidRequest, match="at most 128 calls in one turn") as refused:
        Conversation(body)
    assert refused.value.field == f"input[{MAX_TOOLS + 1}]"


def cost_s(num_turns: int) -> float:
    """Returns the least time of this thread that a conversation of so many turns with calls took."""
    body = ResponsesRequest.model_validate({"input": [*map(call, range(100)), ITEMS[5]] * num_turns})
    times = []
    for _ in range(5):
        start = time.thread_time()
        Conversation(body)
        times.append(time.thread_time() - start)
    return min(times)


def test_an_item_costs_the_same_however_many_there_are() -> None:
    assert cost_s(40) < 30 * cost_s(4)  # ten times as many items; a hundredfold if each one cost as much as all before


def test_a_conversation_of_nothing_is_refused_in_items() -> None:
    with pytest.raises(InvalidRequest, match=f"input: got 0 items, allowed is 1 to {MAX_CHAT_MESSAGES} items"):
        asked(input=[])


def test_calls_without_a_word_are_a_message_without_content() -> None:
    messages = asked(input=[ITEMS[0], ITEMS[4]])["messages"]
    assert isinstance(messages, list)
    assert (messages[1]["role"], messages[1]["content"], len(messages[1]["tool_calls"])) == ("assistant", None, 1)


def test_tools_and_their_choice_are_a_chats() -> None:
    tool = {"type": "function", "name": "weather", "description": "Tells it.", "parameters": WEATHER, "strict": True}
    body = asked(
        input="hi", tools=[tool], tool_choice={"type": "function", "name": "weather"}, parallel_tool_calls=False
    )
    function = {key: value for key, value in tool.items() if key != "type"}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert body["parallel_tool_calls"] is False
    assert asked(input="hi", tool_choice="required")["tool_choice"] == "required"
    assert "tools" not in asked(input="hi", tools=[], tool_choice=None)


def test_reasoning_effort_is_a_chats() -> None:
    assert asked(input="hi", reasoning={"effort": "low", "summary": "auto"})["reasoning_effort"] == "low"


def test_fields_of_the_chat_have_the_callers_names() -> None:
    tool = {"type": "function", "name": "weather"}
    body = ResponsesRequest.model_validate({"input": ITEMS, "instructions": "Be brief.", "tools": [tool]})
    _, names = chat_body(body)
    for field, ours in {
        "messages": "input",
        "messages[0].content": "instructions",
        "messages[1].content": "input[0].content",
        "messages[2].tool_calls[0].function.arguments": "input[3].arguments",
        "messages[2].tool_calls[1].id": "input[4].call_id",
        "messages[2].role": "input[2].role",
        "messages[3].tool_call_id": "input[5].call_id",
        "messages[4].content[0].text": "input[6].output[0].text",
        "tools[0].function.parameters": "tools[0].parameters",
        "tool_choice.function.name": "tool_choice.name",
        "response_format.json_schema.schema": "text.format.schema",
        "max_completion_tokens": "max_output_tokens",
        "temperature": "temperature",
    }.items():
        assert names.translated(InvalidRequest(field, 1, "none")).field == ours
    _, plain = chat_body(ResponsesRequest.model_validate({"input": "hi"}))
    assert plain.translated(InvalidRequest("messages[0].content", 1, "none")).field == "input"


def test_other_names_leave_what_kind_of_error_it_is() -> None:
    _, names = chat_body(ResponsesRequest.model_validate({"input": "hi"}))
    missing = names.translated(MissingField("messages[0].content"))
    assert (missing.field, str(missing)) == ("input", "input: it is missing, and required")
    unknown = names.translated(UnknownField("response_format.strictly", 1, "did you mean strict?"))
    assert str(unknown) == "text.format.strictly: there is no such field here; did you mean strict?"
