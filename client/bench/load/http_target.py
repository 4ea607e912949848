"""Any OpenAI-compatible server over HTTP as the server under test."""

import os
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from qllm.client.access import Access
from qllm.client.bench.errors import MissingExtra, RequestFailed, TargetFailed
from qllm.client.bench.load.openai_events import OpenAIStream
from qllm.client.bench.load.target import Ask, RunSalt, Stream, TargetFacts
from qllm.client.bench.load.workload import BE, LS
from qllm.client.messages import RequestClass

if TYPE_CHECKING:
    import httpx2

_CONNECT_TIMEOUT_S = 10.0
_KEEPALIVE_S = 4.0  # shorter than any server's own, lest a request meets a connection that is just being closed
_SHOWN_CHARS = 300
# Fields that a server may refuse: left out one after the other until it takes the request. The first keeps the run
# apart from what was cached before it, and the others make token counts exact.
_SALT = "cache_salt"
_OPTIONAL_FIELDS: dict[str, object] = {
    _SALT: "",
    "return_token_ids": True,
    "stream_options": {"include_usage": True},
}
_REFUSALS = ("HTTP 400", "HTTP 422")
_PRIORITIES: Mapping[str, Mapping[RequestClass, str | int]] = {
    "service_tier": {LS: "default", BE: "flex"},
    "priority": {LS: 0, BE: 1},
}


NO_ACCESS = Access()


class PriorityField(StrEnum):
    """How the class is told to the server."""

    SERVICE_TIER = "service_tier"
    PRIORITY = "priority"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class HttpDialect:
    """How this server wants to be asked.

    Attributes:
        chat: Ask `/v1/chat/completions` with one message of the user, rather than `/v1/completions`.
        priority_field: The field that tells the class.
        ignore_eos: Send `ignore_eos`, so that outputs have exactly the length asked for.
        extra: Further fields of every request, which win over all others.
    """

    chat: bool = False
    priority_field: PriorityField = PriorityField.SERVICE_TIER
    ignore_eos: bool = True
    extra: Mapping[str, object] = field(default_factory=dict)


class HttpTarget:
    """Asks `/v1/completions` or `/v1/chat/completions`, streaming and greedy.

    The environment's OPENAI_API_KEY is sent as the bearer token, if it is set and no other key is given. Proxies
    are not used.

    Args:
        url: The server's address, with or without `/v1`.
        model: The model's name; None takes the first that the server lists.
        dialect: How the server wants to be asked.
        access: Whom to trust, and what is needed to be let in.
    """

    def __init__(self, url: str, *, model: str | None, dialect: HttpDialect, access: Access = NO_ACCESS) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._dialect = dialect
        self._optional = dict(_OPTIONAL_FIELDS)
        self._salt = RunSalt()
        self._http = _make_client(access)

    async def prepare(self) -> TargetFacts:
        """Asks for the model's name, and finds out with the shortest request which fields the server takes."""
        if self._model is None:
            self._model = await self._first_model()
        probe = Ask(LS, "Hello", 1)
        while (refusal := await self._refusal_of(probe)) is not None:
            if refusal.kind not in _REFUSALS or not self._optional:
                raise TargetFailed(
                    f"{self._url} refuses the simplest request: {refusal.kind}: {refusal}{self._advice()}"
                )
            self._optional.pop(next(iter(self._optional)))
        details = {
            "endpoint": self._path,
            "priority_field": self._dialect.priority_field.value,
            "cache_salt": "new in each run" if _SALT in self._optional else "refused",
            "token_counts": "ids" if "return_token_ids" in self._optional else "usage, or one a chunk",
        }
        return TargetFacts("http", self._url, self._model, None, details)

    async def stream(self, ask: Ask) -> Stream:
        """Streams one completion."""
        import httpx2

        try:
            async with self._http.stream("POST", self._url + self._path, json=self._body(ask)) as response:
                if response.status_code != httpx2.codes.OK:
                    await response.aread()
                    raise RequestFailed(f"HTTP {response.status_code}", response.text[:_SHOWN_CHARS])
                reading = OpenAIStream()
                async for event in httpx2.EventSource(response):
                    chunk = reading.feed(event.data)
                    if chunk is not None:
                        yield chunk
        except httpx2.HTTPError as error:
            raise RequestFailed(type(error).__name__, str(error) or "the connection failed") from error
        yield reading.end()

    async def counters(self) -> Mapping[str, int]:
        """Returns none: the protocol has none."""
        return {}

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    @property
    def _path(self) -> str:
        return "/v1/chat/completions" if self._dialect.chat else "/v1/completions"

    def _body(self, ask: Ask) -> dict[str, object]:
        body: dict[str, object] = {
            "model": self._model,
            "max_tokens": ask.max_tokens,
            "temperature": 0.0,
            "stream": True,
            **self._optional,
        }
        if self._dialect.chat:
            body["messages"] = [{"role": "user", "content": ask.prompt}]
        else:
            body["prompt"] = ask.prompt
        if self._dialect.ignore_eos:
            body["ignore_eos"] = True
        if self._dialect.priority_field is not PriorityField.NONE:
            body[self._dialect.priority_field] = _PRIORITIES[self._dialect.priority_field][ask.request_class]
        return body | self._salt_field(ask) | _turn_fields(ask) | dict(self._dialect.extra)

    def _salt_field(self, ask: Ask) -> dict[str, object]:
        """Returns the run's salt where the server takes one, and that of the request, if it has one, anyway."""
        if _SALT in self._optional:
            return {_SALT: self._salt.of(ask)}
        return {_SALT: ask.cache_salt} if ask.cache_salt else {}

    async def _first_model(self) -> str:
        import httpx2

        try:
            response = await self._http.get(f"{self._url}/v1/models")
            response.raise_for_status()
            return str(response.json()["data"][0]["id"])
        except httpx2.HTTPError as error:
            raise TargetFailed(
                f"no server answers at {self._url}/v1/models: {error or type(error).__name__}"
            ) from error
        except (ValueError, LookupError, TypeError) as error:
            raise TargetFailed(f"{self._url}/v1/models names no model; give one with --model") from error

    async def _refusal_of(self, ask: Ask) -> RequestFailed | None:
        try:
            async with aclosing(self.stream(ask)) as stream:
                async for _ in stream:
                    pass
        except RequestFailed as refusal:
            return refusal
        return None

    def _advice(self) -> str:
        options = ["--no-ignore-eos"] if self._dialect.ignore_eos else []
        if self._dialect.priority_field is not PriorityField.NONE:
            options.append("--priority-field none")
        return f" (a field that it does not know? see {', '.join(options)})" if options else ""


def _turn_fields(ask: Ask) -> dict[str, object]:
    """Returns what a request says about its session, and no field without a value: not every server knows them."""
    fields: dict[str, object] = {}
    if ask.turn is not None:
        fields["session_id"] = ask.turn.session_id
        if ask.turn.expects_tool_call:
            fields["expects_tool_call"] = ask.turn.expects_tool_call
        if ask.turn.is_last:
            fields["last_turn"] = True
    return fields


def _make_client(access: Access) -> "httpx2.AsyncClient":
    """Makes a client with as many connections as there are requests, and no limit on how long an answer may take."""
    try:
        import httpx2
    except ImportError:
        raise MissingExtra("httpx2") from None
    key = access.api_key or os.environ.get("OPENAI_API_KEY")
    return httpx2.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEPALIVE_S),
        timeout=httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S),
        trust_env=False,
        verify=access.ssl_context() or True,
    )
