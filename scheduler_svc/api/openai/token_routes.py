"""Texts to token ids and back, as in vLLM: POST /tokenize and /detokenize."""

from fastapi import FastAPI, Request
from fastapi.responses import Response

from scheduler_svc.api.draft import ChatPrompt, Prompt, TextPrompt
from scheduler_svc.api.openai.answer import require_model
from scheduler_svc.api.openai.conversation import turns_of
from scheduler_svc.api.openai.question import JsonObject
from scheduler_svc.api.openai.wire.field_names import FieldNames
from scheduler_svc.api.openai.wire.later_json import LaterJson, forget_body
from scheduler_svc.api.openai.wire.schemas import DetokenizeRequest, TokenizeRequest
from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.api.validation import context_tokens
from scheduler_svc.errors import InvalidRequest


def add_tokens(app: FastAPI, texts: TextGenerator) -> None:
    """Adds the routes."""

    @app.post("/tokenize", response_model=None)
    async def tokenize(request: Request, body: TokenizeRequest) -> Response:
        """Tells the token ids of a text, or of a conversation as the model's chat template writes it."""
        require_model(texts, body.model)
        field, prompt = _prompt(body)
        forget_body(request)

        async def whole() -> JsonObject:
            try:
                tokens = await texts.tokenized(prompt)
            except InvalidRequest as error:
                raise FieldNames.of(prompt=field).translated(error) from error
            return {
                "count": len(tokens),
                "max_model_len": context_tokens(texts.connected_model()),
                "tokens": [token_id for token_id, _ in tokens],
                "token_strs": [word for _, word in tokens] if body.return_token_strs else None,
            }

        return LaterJson(whole, {})

    @app.post("/detokenize", response_model=None)
    async def detokenize(request: Request, body: DetokenizeRequest) -> Response:
        """Tells the text of token ids, special tokens included."""
        require_model(texts, body.model)
        token_ids = body.tokens
        forget_body(request)

        async def whole() -> JsonObject:
            return {"prompt": await texts.detokenized(token_ids)}

        return LaterJson(whole, {})


def _prompt(body: TokenizeRequest) -> tuple[str, Prompt]:
    """Returns the prompt, and the name of its field."""
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("prompt", body.prompt, "a text, or messages in its place, and not both")
    if body.messages is None:
        return "prompt", TextPrompt(body.prompt or "")
    return "messages", ChatPrompt(turns_of(body.messages))
