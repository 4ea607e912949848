"""Tools and thoughts over gRPC, asked for with the Python client."""

from dataclasses import replace
from typing import Any

import pytest
from qllm import AsyncClient, ChatMessage, FinishReason, InvalidRequest, Tool, ToolCall
from qllm.client.messages import GenerationResult
from qllm.v1 import inference_pb2 as pb

from scheduler_svc.api.deltas import joined
from scheduler_svc.api.draft import ChatPrompt, Draft, ToolDraft, ToolsDraft
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.generation import GenerationRequest
from scheduler_svc.text.chat_template import ChatTurn
from tests.support.models import tool_templates
from tests.support.models.sample_tokenizers import EOS_ID, byte_level_tokenizer
from tests.support.service.api_service import running
from tests.support.service.fakes import FakeGenerator, served_model

WEATHER = Tool("weather", "Tells it.", {"type": "object", "properties": {"city": {"type": "string"}}})
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
HI = [ChatMessage("user", "hi")]


def says(text: str) -> FakeGenerator:
    """A model with Qwen's template, which writes this text."""
    return model(tool_templates.QWEN, text)


def model(template: str, text: str) -> FakeGenerator:
    token_ids = byte_level_tokenizer().encode(text, add_special_tokens=False).ids
    served = served_model(chat_template=template)
    served = replace(served, core=replace(served.core, max_model_len=4096))
    return FakeGenerator(model=served, script=lambda request: [*token_ids, EOS_ID])


def prompt_of(request: GenerationRequest) -> str:
    return byte_level_tokenizer().decode(list(request.prompt_token_ids), skip_special_tokens=False)


async def ask(generator: FakeGenerator, turns: list[ChatMessage] = HI, **options: Any) -> GenerationResult:
    async with running(generator) as service, AsyncClient(f"127.0.0.1:{service.server.port}") as client:
        return await client.generate(turns, **{"tools": [WEATHER], **options}).collect()


async def test_calls_and_thoughts_come_apart_from_the_text() -> None:
    result = await ask(says(f"<think>hm</think>I look. {CALL}"))
    [call] = result.tool_calls
    assert (call.name, call.parsed()) == ("weather", {"city": "Köln"})
    assert (result.text, result.reasoning) == ("I look.", "hm")
    assert result.finish_reason is FinishReason.TOOL_CALLS
    assert result.usage.completion_tokens == len(result.token_ids)


async def test_a_conversation_with_calls_reaches_the_template() -> None:
    generator = says("ok")
    turns = [
        *HI,
        ChatMessage("assistant", reasoning="ask", tool_calls=[ToolCall("call_1", "weather", '{"city": "Bonn"}')]),
        ChatMessage("tool", "rain", tool_call_id="call_1"),
    ]
    result = await ask(generator, turns, template_variables={"enable_thinking": False})
    prompt = prompt_of(generator.submitted[0])
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>' in prompt
    assert "<think>\nask\n</think>" in prompt
    assert "<tool_response>\nrain\n" in prompt
    assert prompt.endswith("<think>\n\n</think>\n\n")
    assert (result.text, result.finish_reason) == ("ok", FinishReason.STOP)


async def test_functions_turns_and_calls_may_be_mappings() -> None:
    generator = says(CALL)
    turns: Any = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": [{"call_id": "1", "name": "weather", "arguments": "{}"}]},
        {"role": "tool", "content": "rain", "tool_call_id": "1"},
    ]
    result = await ask(generator, turns, tools=[{"name": "weather", "parameters": '{"type": "object"}'}])
    assert len(result.tool_calls) == 1
    assert '"parameters": {"type": "object"}' in prompt_of(generator.submitted[0])


async def test_functions_turns_and_calls_may_be_in_openais_form() -> None:
    generator = says(CALL)
    function = {"name": "weather", "description": None, "parameters": {"type": "object"}, "strict": True}
    call = {"id": "1", "type": "function", "index": 0, "function": {"name": "weather", "arguments": '{"a": 1}'}}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turns: Any = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call], "refusal": None},
        {"role": "tool", "content": "rain", "tool_call_id": "1"},
    ]
    tools = [{"type": "function", "function": function}]
    named = {"type": "function", "function": {"name": "weather"}}
    result = await ask(generator, turns, tools=tools, tool_choice=named)
    prompt = prompt_of(generator.submitted[0])
    assert len(result.tool_calls) == 1
    assert generator.submitted[0].sampling.grammar
    assert '"strict": true' in prompt
    assert "a\nb" in prompt
    assert "<think>\nhm\n</think>" in prompt
    assert '"arguments": {"a": 1}' in prompt


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tools": [{"type": "web_search"}]}, ("tools[0] is of type 'web_search'", '"type": "function"')),
        ({"tools": [{"title": "a"}]}, ("tools[0] has the unknown field 'title'", '{"name": ...')),
        ({"tools": [{"type": "function", "function": {}}]}, ("tools[0] has no 'name'",)),
        ({"tools": ["weather"]}, ("tools[0]: got 'weather'", "a Tool or a mapping")),
        ({"tools": [{"type": "function", "function": "weather"}]}, ("tools[0].function is 'weather'",)),
        ({"tool_choice": "maybe"}, ("tool_choice: got 'maybe'", "'auto'")),
        ({"tool_choice": {"type": "function"}}, ("tool_choice has no 'name'",)),
        ({"turns": [{"content": "a"}]}, ("messages[0] has no 'role'", '"content": ...')),
        ({"turns": [{"role": "user", "text": "a"}]}, ("messages[0] has the unknown field 'text'",)),
        ({"turns": [{"role": "user", "content": [{"type": "image_url"}]}]}, ("messages[0].content", "image_url")),
        (
            {"turns": [{"role": "assistant", "tool_calls": [{"name": "f"}]}]},
            ("messages[0].tool_calls[0] has no 'arguments'", '{"call_id": ...'),
        ),
    ],
)
async def test_a_mapping_in_no_known_form_is_refused_with_the_right_one(
    options: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await ask(says("ok"), **options)
    assert all(word in str(refused.value) for word in words), str(refused.value)


async def test_the_template_is_told_how_much_to_think() -> None:
    generator = model("{{ reasoning_effort }}|" + tool_templates.QWEN, "ok")
    await ask(generator, reasoning_effort="low")
    assert prompt_of(generator.submitted[0]).startswith("low|")
    with pytest.raises(InvalidRequest, match=r"chat.reasoning_effort: got 'low', allowed is nothing"):
        await ask(says("ok"), reasoning_effort="low")


async def test_an_answer_may_go_on_with_the_last_message() -> None:
    generator = says("ok")
    turns = [*HI, ChatMessage("assistant", "I think that")]
    await ask(generator, turns, tools=[], continue_final_message=True, add_generation_prompt=False)
    assert prompt_of(generator.submitted[0]).endswith("I think that")
    await ask(generator, tools=[], add_generation_prompt=False)
    assert not prompt_of(generator.submitted[-1]).rstrip().endswith("assistant")
    with pytest.raises(InvalidRequest, match=r"chat.continue_final_message: got true"):
        await ask(generator, turns, tools=[], continue_final_message=True)


async def test_special_tokens_around_a_text_may_be_left_out() -> None:
    generator = FakeGenerator()
    async with running(generator) as service, AsyncClient(f"127.0.0.1:{service.server.port}") as client:
        for adds in (None, True, False):
            await client.generate("hi", add_special_tokens=adds, max_tokens=1).collect()
        await client.generate([5, 6], add_special_tokens=False, max_tokens=1).collect()
        with pytest.raises(InvalidRequest, match=r"add_special_tokens: got true, allowed is false"):
            await client.generate([5, 6], add_special_tokens=True).collect()
    by_default, added, left_out, _ = [list(request.prompt_token_ids) for request in generator.submitted]
    assert by_default == added
    assert left_out == byte_level_tokenizer().encode("hi", add_special_tokens=False).ids


async def test_each_text_of_a_search_has_its_own_calls_and_thoughts() -> None:
    result = await ask(says(f"<think>hm</think>I look. {CALL}"), beam_width=2, num_returned=2, temperature=0)
    best, second = result.hypotheses
    for one in (best, second):
        assert (one.text, one.reasoning) == ("I look.", "hm")
        assert [call.name for call in one.tool_calls] == ["weather"]
    assert best.tool_calls == result.tool_calls
    assert best.finish_reason is FinishReason.TOOL_CALLS


async def test_an_answer_ends_with_the_one_call_that_it_may_have() -> None:
    assert len((await ask(says(CALL + CALL))).tool_calls) == 2
    assert len((await ask(says(CALL + CALL), single_call=True)).tool_calls) == 1


async def test_without_a_choice_of_functions_calls_are_text() -> None:
    assert (await ask(says(CALL), tool_choice="none")).text == CALL


async def test_only_chats_are_read_for_calls_and_thoughts() -> None:
    async with running(says(f"<think>hm</think>{CALL}")) as service:
        request = pb.GenerateRequest(text="hi", stop=pb.StopConditions(max_tokens=200))
        responses = [response async for response in service.inference.Generate(request)]
    assert "".join(response.text for response in responses) == f"<think>hm</think>{CALL}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tools": [Tool("a b")]}, ("chat.tools[0]", "'a b'", "1 to 64 letters")),
        ({"tools": [Tool("a", parameters="[")]}, ("chat.tools[0].parameters", "object of JSON")),
        ({"tools": [], "tool_choice": "required"}, ("chat.tool_choice", "without tools")),
        ({"required_tool": "other"}, ("chat.tool_choice", "'other'", "weather")),
        ({"required_tool": "weather", "tool_choice": "none"}, ("chat.required_tool", "no function may be called")),
        ({"template_variables": {"tools": 1}}, ("chat.template_variables", "'tools'")),
        ({"tool_choice": "maybe"}, ("maybe",)),
        ({"tools": [Tool("a", parameters='{"default": NaN}')]}, ("chat.tools[0].parameters.default", "got NaN")),
        ({"tools": [Tool("a", parameters={"\ud83d": 1})]}, (r"chat.tools[0].parameters.\ud83d", "surrogate")),
        ({"template_variables": {"a": [1e999]}}, ("chat.template_variables.a[0]", "got Infinity")),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(options: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await ask(says("ok"), **options)
    assert all(word in str(refused.value) for word in words), str(refused.value)


async def test_an_unknown_choice_is_refused_by_name() -> None:
    chat = pb.ChatPrompt(messages=[{"role": "user", "content": "hi"}], tool_choice=9)  # type: ignore[arg-type]
    async with running(says("ok")) as service:
        with pytest.raises(Exception, match=r"chat.tool_choice: got 9.*TOOL_CHOICE_AUTO"):
            await service.inference.Generate(pb.GenerateRequest(chat=chat)).read()


async def test_tools_without_a_conversation_are_refused_by_the_client() -> None:
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(InvalidRequest, match="conversation"):
            client.generate("hi", tools=[WEATHER])


@pytest.mark.parametrize("num_earlier", [1, 20, 72])
async def test_an_answer_that_goes_on_in_another_life_has_the_same_calls(num_earlier: int) -> None:
    generator = says(f"I look. {CALL}")
    tools = ToolsDraft([ToolDraft("weather")])
    draft = Draft(request_class=RequestClass.BEST_EFFORT, prompt=ChatPrompt([ChatTurn("user", "hi")], tools))
    texts = TextGenerator(generator)
    token_ids = byte_level_tokenizer().encode(f"I look. {CALL}", add_special_tokens=False).ids[:num_earlier]
    prepared = (await texts.prepare(draft)).resumed(tuple(token_ids), (0.0,) * len(token_ids))
    whole = joined([delta async for delta in texts.submit(prepared)])
    texts.close()
    assert generator.submitted[0].output_token_ids == tuple(token_ids)
    assert (whole.text, [call.name for call in whole.calls]) == ("I look.", ["weather"])
