"""Owns the served model's chat template: renders a conversation to the text that the model was trained on.

Templates are programs that come with a model, so they run in Jinja's sandbox. Knows nothing of tokens.
Source: transformers, utils/chat_template_utils.py, for what templates may rely on.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class ChatTemplateError(Exception):
    """The template refuses the conversation, or cannot render it."""


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """One turn of a conversation.

    Attributes:
        is_in_parts: Whether the template is given the content as a list of one part instead of a text.
        more: What the template is given besides: plain data, such as calls of functions.
        is_silent: Whether the template is given no content at all.
    """

    role: str
    content: str
    is_in_parts: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)
    is_silent: bool = False

    def message(self) -> dict[str, object]:
        """Returns the turn as templates know it."""
        content = [{"type": "text", "text": self.content}] if self.is_in_parts else self.content
        return {"role": self.role, "content": None if self.is_silent else content, **self.more}


@dataclass(frozen=True, slots=True)
class Setting:
    """What a template is given besides the turns: plain data.

    Attributes:
        tools: The functions that may be called, as OpenAI's API has them.
        variables: Further ones, which templates may know or not.
        begins_answer: Whether the text ends where the answer begins.
        continues: Whether it ends inside the last turn, which the answer goes on with.
        needs_tools: Whether a template that takes no tools is of no use.
    """

    tools: Sequence[Mapping[str, Any]] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    begins_answer: bool = True
    continues: bool = False
    needs_tools: bool = False


NO_SETTING = Setting()


class ChatTemplate:
    """A compiled template.

    Args:
        source: Jinja source.
        special_tokens: Texts such as {"bos_token": "<s>"} that the template may use.

    Raises:
        ChatTemplateError: The source is not valid Jinja.
    """

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        self._special_tokens = dict(special_tokens)
        # gpt-oss's template has a name of its own for what others call reasoning_content.
        self._names_thoughts = "message.thinking" in source and "reasoning_content" not in source
        try:
            self._template = _environment().from_string(source)
        except MemoryError:
            raise
        except Exception as error:  # Python's own, too, which compiles what Jinja makes of it
            raise ChatTemplateError(f"the model's chat template does not compile: {error}") from error

    def _message(self, turn: ChatTurn) -> dict[str, object]:
        message = turn.message()
        if self._names_thoughts and "reasoning_content" in message:
            message["thinking"] = message.pop("reasoning_content")
        return message

    def render(self, turns: Sequence[ChatTurn], max_chars: int, setting: Setting = NO_SETTING) -> str:
        """Returns the conversation as text, special tokens included, ending where the model's answer begins.

        Raises:
            ChatTemplateError: The template refuses the conversation, fails on it, or renders more than `max_chars`.
        """
        messages = [self._message(turn) for turn in turns]
        variables = {
            **setting.variables,
            "messages": messages,
            "tools": list(setting.tools) or None,
            "documents": None,
            "add_generation_prompt": setting.begins_answer,
            **self._special_tokens,
        }
        try:
            text = _beginning(self._template.generate(variables), max_chars)
        except MemoryError:
            raise
        except jinja2.TemplateError as error:
            raise ChatTemplateError(str(error)) from error
        except Exception as error:  # a template is a program, which may raise anything
            raise ChatTemplateError(f"{type(error).__name__} in the template") from error
        if len(text) > max_chars:
            raise ChatTemplateError(f"rendered text is longer than {max_chars} characters")
        return text


def _beginning(pieces: Iterable[str], max_chars: int) -> str:
    """Returns the pieces as one text, up to the piece by which it is longer than it may be."""
    taken: list[str] = []
    num_chars = 0
    for piece in pieces:
        taken.append(piece)
        num_chars += len(piece)
        if num_chars > max_chars:
            break
    return "".join(taken)


class _GenerationTag(Extension):
    """Accepts `{% generation %}`, with which templates mark answers for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  (declared so by Jinja)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Returns what stands between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(str(message))  # here, where an object that can't be written is the template's fault


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML, which a model never saw."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(template: str) -> str:
    return datetime.now().astimezone().strftime(template)
