"""Texts to token ids and back, as in vLLM: POST /tokenize and /detokenize."""

from fastapi import FastAPI, Request
from fastapi.responses import Response

from scheduler_svc.api.draft import ChatPrompt, Prompt, TemplateDraft, TextPrompt, ToolChoice, ToolsDraft
from scheduler_svc.api.openai.answer import require_model
from scheduler_svc.api.openai.conversation import tools_of, turns_of
from scheduler_svc.api.openai.question import JsonObject
from scheduler_svc.api.openai.wire.field_names import FieldNames
from scheduler_svc.api.openai.wire.later_json import LaterJson, forget_body
from scheduler_svc.api.openai.wire.schemas import DetokenizeRequest, TokenizeRequest
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.api.validation import context_tokens
from scheduler_svc.errors import InvalidRequest, Words

_OF_CHATS = ("tools", "chat_template_kwargs", "continue_final_message")


def add_tokens(app: FastAPI, texts: TextGenerator) -> None:
    """Adds the routes."""

    @app.post("/tokenize", response_model=None)
    async def tokenize(request: Request, body: TokenizeRequest) -> Response:
        """Tells the token ids of a text, or of a conversation as the model's chat template writes it."""
        require_model(texts, body.model)
        field, prompt = _prompt(body)
        shows_words = bool(body.return_token_strs)
        forget_body(request)

        async def whole() -> JsonObject:
            model, words = texts.connected_model(), None
            with FieldNames.of(prompt=field).told():
                token_ids = await texts.tokenization.token_ids(prompt, model)
            if shows_words:
                words = await texts.tokenization.words(token_ids, model)
            told = {"count": len(token_ids), "max_model_len": context_tokens(model)}
            return {**told, "tokens": token_ids, "token_strs": words}

        return LaterJson(whole, {})

    @app.post("/detokenize", response_model=None)
    async def detokenize(request: Request, body: DetokenizeRequest) -> Response:
        """Tells the text of token ids, special tokens included."""
        require_model(texts, body.model)
        token_ids = body.tokens
        forget_body(request)

        async def whole() -> JsonObject:
            return {"prompt": await texts.tokenization.text(token_ids, texts.connected_model())}

        return LaterJson(whole, {})


def _prompt(body: TokenizeRequest) -> tuple[str, Prompt]:
    """Returns the prompt, and the name of its field."""
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("prompt", body.prompt, "a text, or messages in its place, and not both")
    if body.messages is None:
        _require_nothing_of_chats(body)
        return "prompt", TextPrompt(body.prompt or "", body.add_special_tokens is not False)
    if body.add_special_tokens:
        raise InvalidRequest("add_special_tokens", True, "false or null: the chat template writes special tokens")
    # Whether there is a call changes nothing in the prompt, and tools that the template drops are to be refused.
    tools = ToolsDraft(tools_of(body.tools), ToolChoice.REQUIRED) if body.tools else None
    template = TemplateDraft(
        variables=body.chat_template_kwargs or {},
        begins_answer=body.add_generation_prompt is not False,
        continues=bool(body.continue_final_message),
    )
    return "messages", ChatPrompt(turns_of(body.messages), tools, template)


def _require_nothing_of_chats(body: TokenizeRequest) -> None:
    for field in _OF_CHATS:
        if getattr(body, field):
            raise InvalidRequest(field, Words("a value"), "nothing beside a prompt: it is a part of a conversation")
