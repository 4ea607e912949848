"""POST /v1/responses: how inputs become prompts, how answers are written, and how refusals name what was sent."""

from typing import Any

from pydantic import BaseModel

from scheduler_svc.api.openai.responses.request import PASSED
from scheduler_svc.api.openai.responses.schema import ResponsesRequest
from scheduler_svc.api.openai.wire.schemas import ChatCompletionRequest, GenerationFields
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.text.tokenizer import Tokenizer
from tests.support.models.chat_templates import SYSTEM_AND_USER
from tests.support.models.sample_tokenizers import EOS_ID, byte_level_tokenizer
from tests.support.service.fakes import FakeGenerator, served_model
from tests.support.service.openai_service import RESPONSES, error_of, http_app

TOKENIZER = Tokenizer(byte_level_tokenizer().to_str().encode())
# Of GenerationFields, what responses have in a form of their own, or refuse.
OWN = {"stream_options", "n", "max_tokens", "max_completion_tokens", "response_format", "return_token_ids"}
OWN |= {"use_beam_search", "beam_width", "length_penalty", "early_stopping", "patience", "prompt_logprobs"}

IN_ANOTHER_FORM = {
    "messages",
    "logprobs",
    "top_logprobs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning_effort",
    "include_reasoning",
}
NOT_HERE = {"add_generation_prompt", "continue_final_message"}


def names_of(body: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in body.model_fields.items()}


def encode(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False))


def saying(text: str) -> FakeGenerator:
    return FakeGenerator(script=lambda _: [*encode(text), EOS_ID])


async def test_a_text_is_answered_by_a_message() -> None:
    generator = saying("hello you")
    async with http_app(generator) as service:
        response = await service.answer(RESPONSES, model="fake", input="hi", metadata={"who": "me"}, store=True)
    assert list(generator.submitted[0].prompt_token_ids) == encode("<s>[user] hi\n[assistant] ")
    assert response["id"].startswith("resp_")
    assert (response["object"], response["status"], response["model"]) == ("response", "completed", "fake")
    [message] = response["output"]
    assert message.pop("id").startswith("msg_")
    assert message == {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "hello you", "annotations": [], "logprobs": []}],
    }
    assert response["metadata"] == {"who": "me"}
    assert (response["store"], response["error"], response["incomplete_details"]) == (False, None, None)
    num_in, num_out = len(generator.submitted[0].prompt_token_ids), len(encode("hello you")) + 1
    assert response["usage"] == {
        "input_tokens": num_in,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": num_out,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": num_in + num_out,
    }


async def test_a_conversation_goes_on_from_the_items_of_an_answer() -> None:
    generator = saying("ho")
    async with http_app(generator) as service:
        first = await service.answer(RESPONSES, input="hi")
        thought: dict[str, Any] = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None}
        parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
        items = [
            {"role": "user", "content": "hi"},
            thought,
            *first["output"],
            {"type": "message", "role": "user", "content": parts},
        ]
        await service.answer(RESPONSES, instructions="be brief", input=items)
    expected = "<s>[system] be brief\n[user] hi\n[assistant] ho\n[user] a\nb\n[assistant] "
    assert list(generator.submitted[-1].prompt_token_ids) == encode(expected)


async def test_an_answer_that_was_cut_off_is_incomplete() -> None:
    async with http_app(FakeGenerator()) as service:
        response = await service.answer(RESPONSES, input="hi", max_output_tokens=3)
    assert (response["status"], response["max_output_tokens"]) == ("incomplete", 3)
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"
    assert response["usage"]["output_tokens"] == 3


async def test_fields_mean_what_they_mean_in_a_chat() -> None:
    generator = saying("x")
    options: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "seed": 3,
        "presence_penalty": 0.25,
        "logit_bias": {"5": 2},
        "stop": ["zz"],
        "service_tier": "flex",
        "cache_salt": "mine",
        "session_id": "one",
    }
    async with http_app(generator) as service:
        response = await service.answer(RESPONSES, input="hi", **options)
        await service.answer("/v1/chat/completions", messages=[{"role": "user", "content": "hi"}], **options)
    ours, chats = generator.submitted
    assert ours.request_class is RequestClass.BEST_EFFORT
    for field in ("request_class", "prompt_token_ids", "sampling", "stop", "cache_salt", "session"):
        assert getattr(ours, field) == getattr(chats, field)
    assert (response["temperature"], response["top_p"], response["service_tier"]) == (0.5, 0.9, "flex")


def test_every_field_of_chats_is_passed_on_or_has_a_form_of_its_own_or_none() -> None:
    assert names_of(GenerationFields) <= PASSED | OWN
    assert names_of(ChatCompletionRequest) == PASSED | OWN | IN_ANOTHER_FORM | NOT_HERE
    assert PASSED | IN_ANOTHER_FORM - {"messages", "logprobs", "reasoning_effort"} <= names_of(ResponsesRequest)
    assert len(PASSED | OWN | IN_ANOTHER_FORM | NOT_HERE) == len(PASSED) + len(OWN) + len(IN_ANOTHER_FORM) + 2


async def test_log_probabilities_come_if_they_are_included() -> None:
    generator = saying("the")
    async with http_app(generator) as service:
        included = {"include": ["message.output_text.logprobs", "reasoning.encrypted_content"], "top_logprobs": 2}
        response = await service.answer(RESPONSES, input="hi", **included)
        refused = await service.post(RESPONSES, input="hi", top_logprobs=2)
    [part] = response["output"][0]["content"]
    assert bytes(byte for token in part["logprobs"] for byte in token["bytes"]) == b"the"  # and not what ended it
    assert len(part["logprobs"][0]["top_logprobs"]) == 2
    assert response["top_logprobs"] == 2
    assert (refused.status_code, error_of(refused)["param"]) == (400, "top_logprobs")


async def test_a_text_is_kept_to_its_format() -> None:
    generator = saying("{}")
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    async with http_app(generator) as service:
        format_ = {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}
        response = await service.answer(RESPONSES, input="hi", text={"format": format_})
        chat_format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        messages = [{"role": "user", "content": "hi"}]
        await service.answer("/v1/chat/completions", messages=messages, response_format=chat_format)
        await service.answer(RESPONSES, input="hi", text={"format": {"type": "json_object"}})
        await service.answer(RESPONSES, input="hi", text={"format": {"type": "text"}, "verbosity": "medium"})
    ours, chats, json_object, plain = (request.sampling.grammar for request in generator.submitted)
    assert ours == chats != ""
    assert json_object not in ("", ours)
    assert plain == ""
    assert response["text"]["format"] == format_


SCHEMALESS = {"format": {"type": "json_schema", "name": "a"}}
UNKNOWN_ITEM = [{"role": "user", "content": "hi"}, {"type": "computer_call", "id": "x"}]
IMAGE = [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]


REFUSED: list[tuple[dict[str, object], str, str]] = [
    ({}, "input", "required"),
    ({"input": 7}, "input", "a string or a list of items"),
    ({"input": [7]}, "input[0]", "an object"),
    ({"input": UNKNOWN_ITEM}, "input[1].type", "computer_call"),
    ({"input": IMAGE}, "input[0].content[0].type", "only text"),
    ({"input": [{"role": "user"}]}, "input[0].content", "required"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "item_reference"),
    ({"input": "hi", "previous_response_id": "resp_1"}, "previous_response_id", "nothing is kept"),
    ({"input": "hi", "conversation": "conv_1"}, "conversation", "nothing is kept"),
    ({"input": "hi", "prompt": {"id": "p"}}, "prompt", "no prompts are kept"),
    ({"input": "hi", "background": True}, "background", "false"),
    ({"input": "hi", "tools": [{"type": "web_search"}]}, "tools[0].type", "none are built in"),
    ({"input": "hi", "tool_choice": {"type": "file_search"}}, "tool_choice.type", 'allowed is "function"'),
    ({"input": "hi", "include": ["all"]}, "include[0]", "logprobs"),
    ({"input": "hi", "text": SCHEMALESS}, "text.format.schema", "a JSON schema"),
    ({"input": "hi", "text": {"verbosity": "low"}}, "text.verbosity", "medium"),
    ({"input": "hi", "messages": []}, "messages", "no such field"),
    ({"input": "hi", "use_beam_search": True}, "use_beam_search", "false"),
    ({"input": "hi", "max_tokens": 5}, "max_tokens", "max_output_tokens"),
    ({"input": "hi", "n": 2}, "n", "one answer"),
    ({"input": "hi", "n": True}, "n", "one answer"),
    ({"input": "hi", "use_beam_search": 0}, "use_beam_search", "false"),
    ({"input": "hi", "max_output_tokens": 0}, "max_output_tokens", "1"),
    ({"input": "hi", "temperature": -1}, "temperature", "number"),
    ({"input": "hi", "top_logprobs": 30, "include": ["message.output_text.logprobs"]}, "top_logprobs", "20"),
    ({"input": []}, "input", "got 0 items, allowed is 1 to 4096 items"),
    ({"input": [{"role": "wizard", "content": "hi"}]}, "input", "unknown role"),
    ({"input": "x" * 3000}, "input", ""),
    ({"input": "hi", "metadata": {"a": 1}}, "metadata.a", "string"),
    ({"input": "hi", "metadata": {"a": "x" * 513}}, "metadata['a']", "512 characters"),
    (
        {"input": "hi", "stream_options": {"continuous_usage_stats": True}},
        "stream_options.continuous_usage_stats",
        "",
    ),
]


async def test_a_refusal_names_the_field_as_the_caller_wrote_it() -> None:
    generator = FakeGenerator()
    async with http_app(generator) as service:
        for body, param, words in REFUSED:
            response = await service.post(RESPONSES, **body)
            assert response.status_code == 400, body
            error = error_of(response)
            assert error["param"] == param, error
            assert words in error["message"]
    assert generator.submitted == []


async def test_a_schema_that_can_not_be_followed_is_refused_by_the_callers_name() -> None:
    format_ = {"type": "json_schema", "name": "a", "schema": {"type": "object", "propertyNames": {"maxLength": 3}}}
    async with http_app(FakeGenerator()) as service:
        response = await service.post(RESPONSES, input="hi", text={"format": format_})
    assert (response.status_code, error_of(response)["param"]) == (400, "text.format.schema")


async def test_a_role_that_the_template_would_drop_is_refused_by_its_item() -> None:
    items = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    async with http_app(FakeGenerator(served_model(chat_template=SYSTEM_AND_USER))) as service:
        response = await service.post(RESPONSES, instructions="be brief", input=items)
    assert (response.status_code, error_of(response)["param"]) == (400, "input[1].role")


async def test_no_response_is_kept() -> None:
    async with http_app(saying("x")) as service:
        response = await service.answer(RESPONSES, input="hi")
        kept = await service.http.get(f"{RESPONSES}/{response['id']}")
    assert kept.status_code == 404


async def test_a_schema_of_any_depth_is_its_senders_mistake() -> None:
    """Where JSON is just shallow enough to be read, it may be too deep to be written again."""
    async with http_app(FakeGenerator()) as service:
        for depth in range(880, 990):
            schema = '{"items":' * depth + "{}" + "}" * depth
            body = f'{{"input":"hi","text":{{"format":{{"type":"json_schema","schema":{schema}}}}}}}'
            response = await service.http.post(RESPONSES, content=body, headers={"content-type": "application/json"})
            assert response.status_code == 400, (depth, response.text[:300])
