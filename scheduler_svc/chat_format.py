"""Decides how the served model's chat template is given a conversation, so that nothing that is said in it gets lost.

Templates differ in whether a turn's content is a text or a list of parts, and in which roles they know where; many drop what
they do not know without a word. Which is found by renderings with marks in place of what is said, once for each sequence of
roles, when it first comes: not at load, since a template is a program that may never end, and plain prompts need none:

    roles ──▶ contents as texts, as parts ┬─▶ the first way in which every mark is in the rendered text
    developer called system ──────────────┘

Knows nothing of tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from scheduler_svc.chat_template import ChatTemplate, ChatTemplateError, ChatTurn

# Sequences of roles as long as this are tried once; longer ones, which are rare, each time.
_MAX_REMEMBERED_TURNS = 64
_MAX_REMEMBERED = 256
_MAX_TRIAL_CHARS = 1 << 20
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
        convention = self.convention(tuple(turn.role for turn in turns))
        text = self._template.render(convention.turns(contents), max_chars)
        for index in convention.lost:
            is_there = convention.is_guess and _plain(contents[index]) in _plain(text)
            if contents[index].strip() and not is_there:
                raise LostTurn(index)
        return text

    def convention(self, roles: tuple[str, ...]) -> Convention:
        """Returns how the template takes a conversation of turns with these roles."""
        return self._remembered(roles) if len(roles) <= _MAX_REMEMBERED_TURNS else self._find(roles)

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """The usual roles that the template takes; found by trials at the first call."""
        taken: set[str] = set()
        for roles in _USUAL_CONVERSATIONS:
            lost = self.convention(roles).lost
            taken.update(role for index, role in enumerate(roles) if index not in lost)
        return tuple(role for role in _USUAL_ROLES if role in taken)

    def _find(self, roles: tuple[str, ...]) -> Convention:
        """Returns the first convention in which all turns leave a trace, or the one in which most do."""
        marks = [f"qz{index}zq" for index in range(len(roles))]
        best = Convention(roles, lost=tuple(range(len(roles))), is_guess=True)
        for tried in _conventions(roles):
            turns = tried.turns(marks)
            try:
                text = self._template.render(turns, _MAX_TRIAL_CHARS).casefold()
            except ChatTemplateError:
                continue
            lost = tuple(index for index, turn in enumerate(turns) if not _is_written(turn, text))
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


def _is_written(turn: ChatTurn, text: str) -> bool:
    """Whether a trial's mark is in the text, other than in a list that was written out as it is in Python or JSON."""
    quoted = (f"'text': '{turn.content}'", f'"text": "{turn.content}"')
    return turn.content in text and not (turn.is_in_parts and any(one in text for one in quoted))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
