"""Writes docs/guides/parameters.md from the fields that the HTTP API has, drops and refuses, and checks the page.

python -m scripts.parameters generate | check
"""

import json
import sys
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

from pydantic import BaseModel

from scheduler_svc.api.draft import DEFAULT_MAX_TOKENS as GRPC_MAX_TOKENS
from scheduler_svc.api.openai.completions import DEFAULT_MAX_TOKENS as COMPLETIONS_MAX_TOKENS
from scheduler_svc.api.openai.responses.schema import ResponsesRequest
from scheduler_svc.api.openai.wire.schemas import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerationFields,
    StructuredOutputs,
    TokenizeRequest,
)
from scripts.asked_parameters import (
    OPENAI_IN_BOTH,
    OPENAI_IN_CHAT,
    OPENAI_IN_COMPLETIONS,
    VLLM_IN_BOTH,
    VLLM_IN_CHAT,
    VLLM_IN_COMPLETIONS,
    Asked,
)

PAGE = Path("docs/guides/parameters.md")


class Here(Enum):
    """What becomes of a field; values are what the page says."""

    SUPPORTED = "supported"
    IGNORED = "ignored"
    NEUTRAL = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Api:
    """One of the two kinds of requests.

    Attributes:
        path: Where it is sent.
        body: What may be in it.
        openai: OpenAI's fields.
        vllm: vLLM's own.
    """

    title: str
    path: str
    body: type[GenerationFields]
    openai: Mapping[str, Asked]
    vllm: Mapping[str, Asked]

    @property
    def asked(self) -> Mapping[str, Asked]:
        """All fields of either."""
        return {**self.vllm, **self.openai}

    def own(self) -> list[str]:
        """Returns the fields that neither has."""
        return sorted(self.known - self.asked.keys())

    @property
    def known(self) -> Set[str]:
        """The fields that do something here."""
        return {field.alias or name for name, field in self.body.model_fields.items()}

    def here(self, name: str) -> Here:
        """Returns what becomes of a field."""
        if name in self.known:
            return Here.SUPPORTED
        if name in self.body.ignored:
            return Here.IGNORED
        return Here.NEUTRAL if name in self.body.neutral else Here.UNKNOWN


CHAT = Api(
    "Chats",
    "/v1/chat/completions",
    ChatCompletionRequest,
    {**OPENAI_IN_BOTH, **OPENAI_IN_CHAT},
    {**VLLM_IN_BOTH, **VLLM_IN_CHAT},
)
COMPLETIONS = Api(
    "Completions",
    "/v1/completions",
    CompletionRequest,
    {**OPENAI_IN_BOTH, **OPENAI_IN_COMPLETIONS},
    {**VLLM_IN_BOTH, **VLLM_IN_COMPLETIONS},
)
# What has no counterpart of the same fields elsewhere, or is said in a guide of its own; each with all its fields.
_OTHERS: Mapping[str, tuple[str, type[BaseModel]]] = {
    "Responses": ("/v1/responses", ResponsesRequest),
    "Tokens of a text": ("/tokenize", TokenizeRequest),
    "A text of tokens": ("/detokenize", DetokenizeRequest),
    "Structures": ("structured_outputs", StructuredOutputs),
}
_GRPC_ROW = (
    f"| gRPC, the Python client | {GRPC_MAX_TOKENS}, or what the context still holds if that is less | a text that is "
    f"continued may never end by itself, and {COMPLETIONS_MAX_TOKENS} tokens are nobody's answer |"
)
_HEADER = f"""# Fields of requests over HTTP

Generated from the code by `make parameters`; `make check` proves that it is fresh, and
`test_each_field_is_answered_as_the_page_says` sends every field of these tables to a running
service. Lists: the openai package's types, and vLLM 0.32's API reference. The same settings over
gRPC, and how they go together: [decoding.md](decoding.md).

- **supported**: it does what the last column says; a value that is out of range is refused with 400
  and one sentence that names the field, what was given and what is allowed.
- **ignored**: a label or a hint, which no output depends on. Any value is taken.
- **refused**: not here. null, and the value in the last column, ask for what happens anyway and are
  taken, since many clients send them unasked; any other is refused with 400.
- What a request leaves out of `temperature`, `top_k`, `top_p`, `min_p` and `repetition_penalty` is
  as the model's makers say in `generation_config.json`, else the default below.
- A field that is in none of the tables is refused, and the closest one is named. null is the same
  as leaving a field out, but for the prompt, which has to be there.
- The base URL may end with `/v1` or not. `x-request-id` is taken from the caller where it is
  printable ASCII, and is on every answer; without one it is the answer's id.

## How long an answer is by default

| asked over | `max_tokens` left out | why |
|---|---|---|
| `/v1/chat/completions` | what the context still holds | as with OpenAI and vLLM: a chat's answer ends by itself |
| `/v1/completions` | {COMPLETIONS_MAX_TOKENS} | as with OpenAI and vLLM: clients count on it |
{_GRPC_ROW}
"""


def page() -> str:
    """Returns docs/guides/parameters.md."""
    parts = [_HEADER]
    for api in (CHAT, COMPLETIONS):
        parts.append(f"## {api.title}: `{api.path}`\n")
        parts.append("\n".join(_table(api)) + "\n")
    for title, (path, body) in _OTHERS.items():
        parts.append(f"## {title}: `{path}`\n")
        parts.append("\n".join(_own_table(body)) + "\n")
    return "\n".join(parts)


def _own_table(body: type[BaseModel]) -> Iterator[str]:
    yield "| field | what it does, its range and default |"
    yield "|---|---|"
    for name, field in sorted(_schema(body)["properties"].items()):
        says = str(field.get("description", "")).replace("|", chr(92) + "|")
        yield f"| `{name}` | {says} |"


def _table(api: Api) -> Iterator[str]:
    yield "| field | of | here | what it does, its range and default; or what is taken |"
    yield "|---|---|---|---|"
    for name in sorted((*api.asked, *api.own())):
        here = api.here(name)
        cells = (f"`{name}`", _origin(api, name), here.value, _says(api, name, here))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _origin(api: Api, name: str) -> str:
    return "OpenAI" if name in api.openai else "vLLM" if name in api.vllm else "QLLM"


def _says(api: Api, name: str, here: Here) -> str:
    match here:
        case Here.SUPPORTED:
            return str(_schema(api.body)["properties"][name].get("description", ""))
        case Here.IGNORED:
            return "any value"
        case Here.NEUTRAL:
            return " or ".join(f"`{json.dumps(one)}`" for one in (*api.body.neutral[name], None))
        case Here.UNKNOWN:
            return "nothing"


@cache
def _schema(body: type[BaseModel]) -> dict[str, dict[str, dict[str, object]]]:
    return body.model_json_schema()


def main() -> int:
    """Generates or checks; returns the exit code."""
    match sys.argv[1:]:
        case ["generate"]:
            PAGE.write_text(page())
            return 0
        case ["check"]:
            is_fresh = PAGE.exists() and PAGE.read_text() == page()
            print(f"{PAGE} agrees with the code" if is_fresh else f"{PAGE}: stale; run `make parameters`")
            return 0 if is_fresh else 1
        case _:
            print("usage: python -m scripts.parameters generate | check", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
