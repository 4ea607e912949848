"""Decides how the served model's chat template is given a conversation, so that nothing that is said in it gets lost.

Templates differ in whether a turn's content is a text or a list of parts, and in which roles they know where; many
drop what they do not know without a word. Which is found by renderings with marks in place of what is said, once for
each sequence of roles: the usual ones when the template is loaded, others when they first come.

    roles ──▶ contents as texts, as parts ┬─▶ the first way in which every mark is in the rendered text
    developer called system ──────────────┘

A template is a program that may never end, so this runs in a process of its own. Knows nothing of tokens.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from scheduler_svc.text.chat_template import ChatTemplate, ChatTemplateError, ChatTurn

# Sequences of roles as long as this are tried once; longer ones, which are rare, each time.
_MAX_REMEMBERED_TURNS = 64
_MAX_REMEMBERED = 256
_MAX_TRIAL_CHARS = 4 << 20
# What stands for the content of a turn in a trial, and how Python and JSON write out a list of one part with it.
_MARK = re.compile("qz([0-9]+)zq")
_LISTED_MARK = re.compile("""(?:'text': '|"text": ")qz([0-9]+)zq['"]""")
_USUAL_ROLES = ("system", "developer", "user", "assistant")
_USUAL_CONVERSATIONS = (("system", "user"), ("developer", "user"), ("user", "assistant", "user"))


class LostTurn(ChatTemplateError):
    """The template drops a turn.

    Attributes:
        index: Its number, from 0.
    """

    def __init__(self, index: int) -> None:
        super().__init__(f"turn {index} leaves no trace in the prompt")
        self.index = index


@dataclass(frozen=True, slots=True)
class Convention:
    """How the turns of a sequence of roles are given to a template.

    Attributes:
        roles: What each turn's role is called.
        roles_in_parts: Roles whose content is a list of one part; the others' is a text.
        lost: Turns that leave no trace.
        is_guess: Whether the template refused all trials, so that nothing is known; `lost` are all turns then.
    """

    roles: tuple[str, ...]
    roles_in_parts: frozenset[str] = frozenset()
    lost: tuple[int, ...] = ()
    is_guess: bool = False

    def continues(self, shorter: "Convention") -> bool:
        """Returns whether this takes the first turns as `shorter` takes them."""
        is_alike = self.roles_in_parts & set(shorter.roles) == shorter.roles_in_parts
        return is_alike and self.roles[: len(shorter.roles)] == shorter.roles

    def turns(self, contents: Sequence[str]) -> list[ChatTurn]:
        """Returns the conversation as the template takes it."""
        return [
            ChatTurn(role, content, role in self.roles_in_parts)
            for role, content in zip(self.roles, contents, strict=True)
        ]


class ChatFormat:
    """Renders conversations by a template, each in a way that the template takes.

    Args:
        template: The model's.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._remembered = lru_cache(_MAX_REMEMBERED)(self._find)

    def render(self, turns: Sequence[ChatTurn], max_chars: int) -> str:
        """Returns the conversation as text, special tokens included, ending where the model's answer begins.

        Raises:
            LostTurn: The template drops a turn that says something.
            ChatTemplateError: The template refuses the conversation, fails on it, or renders more than `max_chars`.
        """
        contents = [turn.content for turn in turns]
        convention = self.convention(tuple(turn.role for turn in turns), max_chars)
        text = self._template.render(convention.turns(contents), max_chars)
        lost = next(_missing(contents, text) if convention.is_guess else _speaking(contents, convention.lost), None)
        if lost is not None:
            raise LostTurn(lost)
        return text

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

    def _find(self, roles: tuple[str, ...], max_chars: int, likely: Convention | None = None) -> Convention:
        """Returns the first convention in which all turns leave a trace, or the one in which most do.

        What is like `likely`, which holds for the first of the turns, is tried first.
        """
        marks = [f"qz{index}zq" for index in range(len(roles))]
        best = Convention(roles, lost=tuple(range(len(roles))), is_guess=True)
        for tried in sorted(_conventions(roles), key=lambda one: likely is None or not one.continues(likely)):
            try:
                text = self._template.render(tried.turns(marks), max_chars).casefold()
            except ChatTemplateError:
                continue
            lost = _lost_marks(tried, text)
            if best.is_guess or len(lost) < len(best.lost):
                best = Convention(tried.roles, tried.roles_in_parts, lost)
            if not lost:
                break
        return best


def _conventions(roles: tuple[str, ...]) -> Iterator[Convention]:
    """Yields what may be tried, best first. OpenAI's developer is what was called system before."""
    as_system = tuple("system" if role == "developer" else role for role in roles)
    for called in dict.fromkeys((roles, as_system)):
        everyone = frozenset(called)
        for in_parts in dict.fromkeys((frozenset[str](), everyone, everyone - {"system"}, everyone & {"user"})):
            yield Convention(called, in_parts)


def _lost_marks(tried: Convention, text: str) -> tuple[int, ...]:
    """Returns the turns whose marks are not in a trial's text, or only in a list that was written out as it is."""
    written, listed = (set(map(int, mark.findall(text))) for mark in (_MARK, _LISTED_MARK))
    return tuple(
        index
        for index, role in enumerate(tried.roles)
        if index not in written or (role in tried.roles_in_parts and index in listed)
    )


def _speaking(contents: Sequence[str], indices: Sequence[int]) -> Iterator[int]:
    """Yields those of the turns that say something."""
    return (index for index in indices if contents[index].strip())


def _missing(contents: Sequence[str], text: str) -> Iterator[int]:
    """Yields the turns that are nowhere in the text, in the time of one search if the text has all of them in order."""
    plain, position = _plain(text), 0
    for index, content in enumerate(map(_plain, contents)):
        found = plain.find(content, position)
        position = found if found >= 0 else plain.find(content)
        if position < 0:
            yield index
            position = 0


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
