"""A request for a response as one of chat completions: items become messages, flat tools become a chat's."""

from scheduler_svc.api.openai.responses.request import chat_body
from scheduler_svc.api.openai.responses.schema import ResponsesRequest
from scheduler_svc.errors import InvalidRequest

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
