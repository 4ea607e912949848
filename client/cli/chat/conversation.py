"""Owns what was said in a conversation, its session, and how much of the context it takes. Knows no terminal."""

import uuid

from qllm.client.messages import ChatMessage, Usage


class Conversation:
    """Turns, oldest first.

    Args:
        system: What the model is told in front of all turns; None for nothing.
        session_id: The session that the turns are of; None: one of its own, and another after each `reset`.
        max_tokens: How many tokens the model's context holds; None if it is not known.

    Attributes:
        session_id: The session that the next turn is of.
    """

    def __init__(self, system: str | None, session_id: str | None, max_tokens: int | None = None) -> None:
        self._system = [] if system is None else [ChatMessage("system", system)]
        self._given_session_id = session_id
        self._max_tokens = max_tokens
        self.reset()

    def reset(self) -> None:
        """Forgets all turns but the system's."""
        self._turns: list[ChatMessage] = []
        self._num_tokens = 0
        self.session_id = self._given_session_id or f"chat-{uuid.uuid4().hex}"

    def with_question(self, question: str) -> list[ChatMessage]:
        """Returns the prompt that asks a question after all that was said; the question is not kept yet."""
        return [*self._system, *self._turns, ChatMessage("user", question)]

    def keep(self, question: str, answer: str, usage: Usage | None = None) -> None:
        """Keeps a question and its answer, which are part of every prompt from now on.

        Args:
            question: What was asked.
            answer: What was answered, as far as it came.
            usage: How many tokens all of it came to; None if that is not known.
        """
        self._turns += [ChatMessage("user", question), ChatMessage("assistant", answer)]
        if usage is not None:
            self._num_tokens = usage.prompt_tokens + usage.completion_tokens

    @property
    def is_begun(self) -> bool:
        """Whether anything was answered."""
        return bool(self._turns)

    @property
    def is_full(self) -> bool:
        """Whether no further question fits the context."""
        return self._max_tokens is not None and self._num_tokens >= self._max_tokens

    @property
    def room(self) -> str:
        """How much of the context is taken, in words."""
        whole = "" if self._max_tokens is None else f" of {self._max_tokens:,}"
        return f"{self._num_tokens:,}{whole} tokens"
