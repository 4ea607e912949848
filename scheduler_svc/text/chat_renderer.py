"""Renders conversations by the served model's chat template, each class by itself, with the event loop going on.

    class ──▶ a process
          ──▶ very long conversations: another one, so that they never stand before short ones

Processes are started when they are needed. Knows nothing of tokens.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from time import monotonic
from typing import Any

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.process.frames import Frame
from scheduler_svc.process.rarely import Rarely
from scheduler_svc.text.chat_format import LostTurn, NoTools
from scheduler_svc.text.chat_template import NO_SETTING, ChatTemplateError, ChatTurn, Setting
from scheduler_svc.text.template_process import (
    DEFAULT_LIMITS,
    TemplateExhausted,
    TemplateLimits,
    TemplateProcess,
    TemplateProcessUnavailable,
    TemplateUnusable,
)
from scheduler_svc.text.threads import PATIENCE_CHARS_PER_S, VERY_LONG_CHARS, VERY_LONG_PATIENCE_CHARS_PER_S
from scheduler_svc.text.turns import Turns

_log = logging.getLogger(__name__)

# A turn costs a template some tens of microseconds, as so many characters cost the tokenizer.
CHARS_PER_TURN = 64
# Of conversations that each take all the time there is, five are waited for.
_MAX_WAIT_S = 10.0


class ChatRenderer:
    """The chat template of one model.

    Args:
        name: The model's, for the log.
        source: Jinja source.
        special_tokens: Texts such as {"bos_token": "<s>"} that the template may use.
        limits: What the template may take.

    Attributes:
        roles: The usual roles that the template takes; empty until it was tried.
        takes_tools: Whether it writes functions that may be called into the prompt; known once it was tried.
    """

    def __init__(
        self, name: str, source: str, special_tokens: dict[str, str], limits: TemplateLimits = DEFAULT_LIMITS
    ) -> None:
        self._name = name
        self._new_process: Callable[[], TemplateProcess] = lambda: TemplateProcess(source, special_tokens, limits)
        self._lanes: dict[tuple[RequestClass, bool], _Lane] = {}
        self._defect: str | None = None  # why the template renders nothing
        self._rarely = Rarely()
        self._is_closed = False
        self.roles: tuple[str, ...] = ()
        self.takes_tools = False

    async def load(self) -> None:
        """Tries the template, so that the first conversation does not wait for it; a failure is logged, not raised."""
        try:
            await self._ask(RequestClass.LATENCY_SENSITIVE, 0, None)
        except (ChatTemplateError, TemplateProcessUnavailable) as error:
            if self._defect is None:  # else it was logged
                _log.warning("model=%s chat_template_not_tried reason=%r", self._name, str(error))

    async def render(
        self,
        request_class: RequestClass,
        turns: Sequence[ChatTurn],
        max_chars: int,
        setting: Setting = NO_SETTING,
    ) -> str:
        """Returns the conversation as text, special tokens included, ending where the model's answer begins.

        Raises:
            NoTools: The template takes no functions.
            LostTurn: The template drops a turn that says something.
            TemplateUnusable: It renders nothing.
            TemplateExhausted: It takes too long, or too much memory, for this conversation.
            ChatTemplateError: It refuses the conversation, fails on it, or renders more than `max_chars`.
            TemplateProcessUnavailable: There is no process for it now.
        """
        frame = {
            "turns": [{"role": turn.role, "content": turn.content, "more": turn.more} for turn in turns],
            "setting": asdict(setting),
            "max_chars": max_chars,
        }
        answer = await self._ask(request_class, num_chars(turns, setting), frame)
        if "lost" in answer:
            raise LostTurn(answer["lost"], answer["call_words"])
        if "no_tools" in answer:
            raise NoTools
        if "refused" in answer:
            raise ChatTemplateError(answer["refused"])
        text: str = answer["text"]
        return text

    def close(self) -> None:
        """Ends all processes; conversations that wait are dropped."""
        self._is_closed = True
        for lane in self._lanes.values():
            lane.close()

    async def _ask(self, request_class: RequestClass, num_chars: int, frame: Frame | None) -> Frame:
        """Returns what the template's process answers; without a frame nothing, once the template was tried."""
        lane = self._lane(request_class, num_chars > VERY_LONG_CHARS)
        try:
            return await lane.run(num_chars, lambda: self._asked(lane.process, frame))
        except TemplateUnusable as error:
            if self._defect is None:
                self._defect = str(error)
                _log.warning("model=%s chat requests are refused: %s", self._name, error)
            raise
        except TemplateExhausted as error:
            if self._rarely.is_due():
                _log.warning("model=%s chat_refused reason=%r (said once a minute)", self._name, str(error))
            raise

    async def _asked(self, process: TemplateProcess, frame: Frame | None) -> Frame:
        if self._is_closed:
            raise TemplateProcessUnavailable("the service is stopping")
        if self._defect is not None:
            raise TemplateUnusable(self._defect)
        await process.start()
        self.roles, self.takes_tools = process.roles, process.takes_tools
        return {} if frame is None else await process.ask(frame)

    def _lane(self, request_class: RequestClass, is_very_long: bool) -> "_Lane":
        key = (request_class, is_very_long)
        if key not in self._lanes:
            patience = VERY_LONG_PATIENCE_CHARS_PER_S if is_very_long else PATIENCE_CHARS_PER_S
            self._lanes[key] = _Lane(self._new_process(), Turns(patience, monotonic))
        return self._lanes[key]


def num_chars(turns: Sequence[ChatTurn], setting: Setting = NO_SETTING) -> int:
    """Returns the length of a conversation, in characters that take as long to work on."""
    besides = [*(turn.more for turn in turns if turn.more), *setting.tools]
    said = sum(CHARS_PER_TURN + len(turn.role) + len(turn.content) for turn in turns)
    return said + sum(len(json.dumps(one, ensure_ascii=False)) for one in besides)


class _Lane:
    """One process, and what waits for it."""

    def __init__(self, process: TemplateProcess, turns: Turns) -> None:
        self.process = process
        self._turns = turns
        self._running: set[asyncio.Task[Frame]] = set()

    async def run(self, num_chars: int, ask: Callable[[], Coroutine[Any, Any, Frame]]) -> Frame:
        """Returns what `ask` returns, which is called when its turn comes.

        A caller that leaves later does not take the answer along: the next one would be given it.
        """
        try:
            async with asyncio.timeout(_MAX_WAIT_S if self._turns.is_busy else None):
                await self._turns.take(num_chars)
        except TimeoutError:
            raise TemplateProcessUnavailable(f"other chats took {_MAX_WAIT_S:g} s") from None
        running = asyncio.create_task(ask(), name="chat-template")
        self._running.add(running)
        running.add_done_callback(self._ended)
        return await asyncio.shield(running)

    def close(self) -> None:
        self._turns.close()
        self.process.close()

    def _ended(self, running: asyncio.Task[Frame]) -> None:
        self._running.discard(running)
        self._turns.pass_on()
