"""Decides how the served model's chat template is given a conversation, so that nothing that is said in it gets lost.

Templates differ in whether a turn's content is a text or a list of parts, and in which roles they know where; many
drop what they do not know without a word. Which is found by renderings with marks in place of what is said, once for
each sequence of roles: the usual ones when the template is loaded, others when they first come.

    roles ──▶ contents as texts, as parts ┬─▶ the first way in which every mark is in the rendered text
    developer called system ──────────────┘

A template is a program that may never end, so this runs in a process of its own. Knows nothing of tokens.
"""

import json
import re
import secrets
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cached_property, lru_cache
from typing import Any

from scheduler_svc.text.chat_template import NO_SETTING, ChatTemplate, ChatTemplateError, ChatTurn, Setting

# Sequences of roles as long as this are tried once; longer ones, which are rare, each time.
_MAX_REMEMBERED_TURNS = 64
_MAX_REMEMBERED = 256
_MAX_TRIAL_CHARS = 4 << 20
_TOOL_CONVERSATIONS = (("user",), ("system", "user"))
_CALL_CONVERSATIONS = (("user", "assistant", "tool"), ("user", "assistant"))
_CALL_ID = "qaqaqaqaq"  # Mistral's templates take nine letters and digits
_USUAL_ROLES = ("system", "developer", "user", "assistant")
_USUAL_CONVERSATIONS = (("system", "user"), ("developer", "user"), ("user", "assistant", "user"))


class LostTurn(ChatTemplateError):
    """The template drops a turn.

    Attributes:
        index: Its number, from 0.
        call_words: Where it is its calls that are dropped, what is to be said of the template.
    """

    def __init__(self, index: int, call_words: str = "") -> None:
        super().__init__(f"turn {index} leaves no trace in the prompt")
        self.index, self.call_words = index, call_words


class NoTools(ChatTemplateError):
    """The template writes no functions that may be called into the prompt."""


@dataclass(frozen=True, slots=True)
class Convention:
    """How the turns of a sequence of roles are given to a template.

    Attributes:
        roles: What each turn's role is called.
        roles_in_parts: Roles whose content is a list of one part; the others' is a text.
        lost: Turns that leave no trace.
        is_guess: Whether the template refused all trials, so that nothing is known; `lost` are all turns then.
        is_silent: Whether turns that call and say nothing have no content, instead of an empty one.
        refusal: What the template said where it refused a trial in another way; empty: nothing.
    """

    roles: tuple[str, ...]
    roles_in_parts: frozenset[str] = frozenset()
    lost: tuple[int, ...] = ()
    is_guess: bool = False
    is_silent: bool = False
    refusal: str = ""

    def continues(self, shorter: "Convention") -> bool:
        """Returns whether this takes the first turns as `shorter` takes them."""
        is_alike = self.roles_in_parts & set(shorter.roles) == shorter.roles_in_parts
        return is_alike and self.roles[: len(shorter.roles)] == shorter.roles

    def turns(self, turns: Sequence[ChatTurn]) -> list[ChatTurn]:
        """Returns the conversation as the template takes it."""
        return [
            replace(
                turn,
                role=role,
                is_in_parts=role in self.roles_in_parts,
                is_silent=self.is_silent and _only_calls(turn),
            )
            for role, turn in zip(self.roles, turns, strict=True)
        ]


class _Marks:
    """What stands for what is said in trials.

    Drawn anew for each process: a mark that is in a caller's text, such as an argument of a call, would count as a
    turn that was written.
    """

    def __init__(self) -> None:
        self._salt = "".join(secrets.choice(string.ascii_lowercase) for _ in range(16))
        self.tool, self.argument = f"qt{self._salt}", f"qa{self._salt}"
        self._content = re.compile(f"qz{self._salt}([0-9]{{1,9}})zq")
        # How Python and JSON write out a list of one part with it.
        self._listed = re.compile(f"""(?:'text': '|"text": ")qz{self._salt}([0-9]{{1,9}})zq['"]""")
        self._call = re.compile(f"qc{self._salt}([0-9]{{1,9}})cq")

    def content(self, index: int) -> str:
        """Returns what stands for the content of a turn."""
        return f"qz{self._salt}{index}zq"

    def call(self, index: int) -> str:
        """Returns what stands for the names of the functions that a turn calls."""
        return f"qc{self._salt}{index}cq"

    def turn(self, index: int, turn: ChatTurn) -> ChatTurn:
        """Returns a turn with marks in place of what it says and of what it calls."""
        content = "" if _only_calls(turn) else self.content(index)
        if not calls_of(turn):
            return replace(turn, content=content)
        calls = [{**call, "function": {**call["function"], "name": self.call(index)}} for call in calls_of(turn)]
        return replace(turn, content=content, more={**turn.more, "tool_calls": calls})

    def lost(self, tried: Convention, marked: Sequence[ChatTurn], text: str) -> tuple[int, ...]:
        """Returns the turns whose marks are not in a trial's text, or only in a list that was written out as it is.

        Of a turn that calls, the calls count: what it says beside them some templates drop, as their models were
        trained.
        """
        written, listed, called = (
            {int(found) for found in mark.findall(text)} for mark in (self._content, self._listed, self._call)
        )
        return tuple(
            index
            for index, turn in enumerate(marked)
            if (
                index not in called
                if calls_of(turn)
                else index not in written or (tried.roles[index] in tried.roles_in_parts and index in listed)
            )
        )

    def has_argument(self, text: str) -> bool:
        """Returns whether a trial's text has the argument, but not as Python writes objects, or JSON texts in texts."""
        return self.argument in text and f"'{self.argument}'" not in text and f'\\"{self.argument}' not in text


class _CallWay(Enum):
    """How a template takes the arguments of a call: as an object, or as a text; not known of one that writes none."""

    OBJECT = auto()
    TEXT = auto()
    UNKNOWN = auto()


class ChatFormat:
    """Renders conversations by a template, each in a way that the template takes.

    Args:
        template: The model's.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._marks = _Marks()
        self._remembered = lru_cache(_MAX_REMEMBERED)(self._find)

    def render(self, turns: Sequence[ChatTurn], max_chars: int, setting: Setting = NO_SETTING) -> str:
        """Returns the conversation as text, special tokens included, ending where the model's answer begins.

        Raises:
            NoTools: The template takes no functions, which must be in the prompt.
            LostTurn: The template drops a turn that says something, or its calls.
            ChatTemplateError: The template refuses the conversation, fails on it, or renders more than `max_chars`.
        """
        if setting.tools and not self.takes_tools:
            if setting.needs_tools:
                raise NoTools
            setting = replace(setting, tools=())
        if any(map(calls_of, turns)) and self._call_way is _CallWay.TEXT:
            turns = [_with_arguments_as_text(turn) for turn in turns]
        convention = self._convention_of(turns, max_chars, setting)
        text = self._template.render(convention.turns(turns), max_chars, setting)
        lost = next(_missing(turns, text) if convention.is_guess else _speaking(turns, convention.lost), None)
        if lost is not None:
            raise LostTurn(lost, self._call_words(turns[lost], convention.refusal))
        return _cut_behind(turns[-1].content.strip(), text) if setting.continues else text

    def _convention_of(self, turns: Sequence[ChatTurn], max_chars: int, setting: Setting) -> Convention:
        """Returns how the template takes a conversation; one with more than roles and contents is tried each time."""
        roles = tuple(turn.role for turn in turns)
        if not any(turn.more for turn in turns):
            return self.convention(roles, max_chars)
        marked = [self._marks.turn(index, turn) for index, turn in enumerate(turns)]
        return self._first_without_loss(marked, max_chars, setting)

    def convention(self, roles: tuple[str, ...], max_chars: int = _MAX_TRIAL_CHARS) -> Convention:
        """Returns how the template takes a conversation of turns with these roles, found by trials of `max_chars`."""
        if len(roles) <= _MAX_REMEMBERED_TURNS:
            return self._remembered(roles, max_chars)
        likely = self._remembered(roles[:_MAX_REMEMBERED_TURNS], max_chars)
        return self._find(roles, max_chars, likely)

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """The usual roles that the template takes; found by trials at the first call."""
        taken: set[str] = set()
        for roles in _USUAL_CONVERSATIONS:
            lost = self.convention(roles).lost
            taken.update(role for index, role in enumerate(roles) if index not in lost)
        return tuple(role for role in _USUAL_ROLES if role in taken)

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the template writes functions into the prompt; found by trials at the first call."""
        parameters = {"type": "object", "properties": {}}
        function = {"name": self._marks.tool, "description": "x", "parameters": parameters}
        setting = Setting(tools=[{"type": "function", "function": function}])
        for roles in _TOOL_CONVERSATIONS:
            turns = [ChatTurn(role, self._marks.content(index)) for index, role in enumerate(roles)]
            try:
                text = self._template.render(self.convention(roles).turns(turns), _MAX_TRIAL_CHARS, setting)
            except ChatTemplateError:
                continue
            if self._marks.tool in text:
                return True
        return False

    @cached_property
    def _call_way(self) -> "_CallWay":
        """How the template takes the arguments of calls; found by trials at the first call."""
        if self._writes({self._marks.argument: "x"}):
            return _CallWay.OBJECT
        return _CallWay.TEXT if self._writes(f'{{"{self._marks.argument}": "x"}}') else _CallWay.UNKNOWN

    def _call_words(self, turn: ChatTurn, refusal: str) -> str:
        """Returns what is to be said of the template where it drops the calls of a turn."""
        if not calls_of(turn):
            return ""
        if self._call_way is _CallWay.UNKNOWN:
            words = "writes no calls into the prompt"
        elif turn.content:
            words = "drops the calls of a turn that has a text, too"
        else:
            words = "drops these calls"
        return f"{words}; given in another way it fails: {refusal}" if refusal else words

    def _writes(self, arguments: Mapping[str, str] | str) -> bool:
        """Returns whether the template writes the arguments of a call as they are, given in one way."""
        function = {"name": self._marks.call(1), "arguments": arguments}
        calls = [{"id": _CALL_ID, "type": "function", "function": function}]
        more: dict[str, Mapping[str, Any]] = {"assistant": {"tool_calls": calls}, "tool": {"tool_call_id": _CALL_ID}}
        for roles in _CALL_CONVERSATIONS:
            turns = [
                ChatTurn(role, "" if role == "assistant" else self._marks.content(index), more=more.get(role, {}))
                for index, role in enumerate(roles)
            ]
            for tried in _conventions(roles, has_silent=True):
                try:
                    text = self._template.render(tried.turns(turns), _MAX_TRIAL_CHARS)
                except ChatTemplateError:
                    continue
                if self._marks.has_argument(text):
                    return True
        return False

    def _find(self, roles: tuple[str, ...], max_chars: int, likely: Convention | None = None) -> Convention:
        marked = [ChatTurn(role, self._marks.content(index)) for index, role in enumerate(roles)]
        return self._first_without_loss(marked, max_chars, NO_SETTING, likely)

    def _first_without_loss(
        self, marked: Sequence[ChatTurn], max_chars: int, setting: Setting, likely: Convention | None = None
    ) -> Convention:
        """Returns the first convention in which all turns leave a trace, or the one in which most do.

        What is like `likely`, which holds for the first of the turns, is tried first.
        """
        roles = tuple(turn.role for turn in marked)
        best = Convention(roles, lost=tuple(range(len(roles))), is_guess=True)
        refusal = ""
        has_silent = any(_only_calls(turn) for turn in marked)
        for tried in sorted(
            _conventions(roles, has_silent=has_silent), key=lambda one: likely is None or not one.continues(likely)
        ):
            try:
                text = self._template.render(tried.turns(marked), max_chars, setting).casefold()
            except ChatTemplateError as error:
                if not tried.roles_in_parts:  # most templates fail on these
                    refusal = refusal or str(error)
                continue
            lost = self._marks.lost(tried, marked, text)
            if best.is_guess or len(lost) < len(best.lost):
                best = replace(tried, lost=lost)
            if not lost:
                break
        return replace(best, refusal=refusal)


def calls_of(turn: ChatTurn) -> Sequence[Mapping[str, Any]]:
    """Returns the calls of functions in a turn, as OpenAI's API has them."""
    return turn.more.get("tool_calls") or ()


def _only_calls(turn: ChatTurn) -> bool:
    return not turn.content and bool(calls_of(turn))


def _with_arguments_as_text(turn: ChatTurn) -> ChatTurn:
    """Returns a turn in which the arguments of calls are JSON as a text."""
    if not calls_of(turn):
        return turn
    calls = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
            },
        }
        for call in calls_of(turn)
    ]
    return replace(turn, more={**turn.more, "tool_calls": calls})


def _conventions(roles: tuple[str, ...], *, has_silent: bool = False) -> Iterator[Convention]:
    """Yields what may be tried, best first. OpenAI's developer is what was called system before."""
    as_system = tuple("system" if role == "developer" else role for role in roles)
    for called in dict.fromkeys((roles, as_system)):
        everyone = frozenset(called)
        for in_parts in dict.fromkeys((frozenset[str](), everyone, everyone - {"system"}, everyone & {"user"})):
            yield Convention(called, in_parts)
            if has_silent:
                yield Convention(called, in_parts, is_silent=True)


def _speaking(turns: Sequence[ChatTurn], indices: Sequence[int]) -> Iterator[int]:
    """Yields those of the turns that say something, or call."""
    return (index for index in indices if turns[index].content.strip() or calls_of(turns[index]))


def _missing(turns: Sequence[ChatTurn], text: str) -> Iterator[int]:
    """Yields the turns that are nowhere in the text, in the time of one search if the text has all of them in order."""
    plain, position = _plain(text), 0
    for index, turn in enumerate(turns):
        for content in map(_plain, [turn.content, *(call["function"]["name"] for call in calls_of(turn))]):
            found = plain.find(content, position)
            position = found if found >= 0 else plain.find(content)
            if position < 0:
                yield index
                position = 0


def _cut_behind(content: str, text: str) -> str:
    """Returns the text up to the end of what was said last."""
    at = text.rfind(content)
    if at < 0:
        raise ChatTemplateError("the last turn is not written as it is, so that it can't be continued")
    return text[: at + len(content)]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
