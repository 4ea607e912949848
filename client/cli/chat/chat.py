"""Holds a conversation: asks what is typed, shows the answers as they come, and obeys what begins with a slash."""

from collections.abc import Callable

from qllm.client.cli.chat.conversation import Conversation
from qllm.client.cli.chat.terminal import Terminal
from qllm.client.errors import InvalidRequest, QllmError
from qllm.client.hints import told
from qllm.client.messages import FinishReason, GenerateOptions, GenerationResult, RequestClass
from qllm.client.sync_client import Client

HELP = """\
/class ls|be   asks as a latency-sensitive request, or as best-effort work that waits for others
/reset         begins a new conversation
/help          shows this
/exit          leaves; so does Ctrl-D
//...          asks a question that begins with a slash, which is the second one
Ctrl-C         cancels the answer; where nothing is typed or answered, leaves"""

_NEW_ONE = "; /reset begins a new conversation"


class Chat:
    """A conversation that goes on until its user leaves.

    Args:
        client: Where to ask.
        conversation: What was said.
        terminal: Where to read and to write.
        request_class: The class of requests, until the user says otherwise.
        options: What else every request says.
        tell: How an error is said.
    """

    def __init__(
        self,
        client: Client,
        conversation: Conversation,
        terminal: Terminal,
        request_class: RequestClass,
        options: GenerateOptions,
        tell: Callable[[QllmError], str] = told,
    ) -> None:
        self._client = client
        self._conversation = conversation
        self._terminal = terminal
        self._class = request_class
        self._options = options
        self._tell = tell
        self._is_over = False
        self._commands: dict[str, Callable[[str], None]] = {
            "/class": self._choose_class,
            "/reset": self._reset,
            "/help": lambda _: terminal.note(HELP),
            "/exit": self._leave,
        }

    def run(self) -> None:
        """Asks line by line until there is none.

        Raises:
            QllmError: A question was refused, and there is no one at a terminal to ask another one.
            UnicodeDecodeError: A line is no UTF-8 text.
        """
        while not self._is_over and (line := self._terminal.read(f"{self._class}> ")) is not None:
            text = line.strip()
            if text.startswith("/") and not text.startswith("//"):
                self._obey(text)
            elif text:
                self._ask(text.removeprefix("/"))

    def _ask(self, question: str) -> None:
        try:
            self._refuse_what_cannot_fit()
            self._stream(question)
        except QllmError as error:
            if not self._terminal.is_interactive:
                raise
            may_be_too_long = isinstance(error, InvalidRequest) and self._conversation.is_begun
            self._terminal.note(f"{self._tell(error)}{_NEW_ONE if may_be_too_long else ''}")

    def _refuse_what_cannot_fit(self) -> None:
        if self._conversation.is_full:
            raise InvalidRequest(f"the context is full, {self._conversation.room}")

    def _stream(self, question: str) -> None:
        """Shows an answer as it comes, and keeps what came of it."""
        options: GenerateOptions = {
            **self._options,
            "request_class": self._class,
            "session_id": self._conversation.session_id,
        }
        said, stream = "", None
        try:
            stream = self._client.generate(self._conversation.with_question(question), **options)
            for delta in stream:
                said += delta.text
                self._terminal.think(delta.reasoning)
                self._terminal.write(delta.text)
            self._conversation.keep(question, said, stream.result.usage)
            self._terminal.note(self._summary(stream.result))
        except KeyboardInterrupt:
            if stream is not None:
                stream.cancel()
            if not self._terminal.is_interactive:
                raise
            if said:
                self._conversation.keep(question, said)
            self._terminal.note("cancelled")
        finally:
            self._terminal.end_line()

    def _summary(self, result: GenerationResult) -> str:
        """Says how the answer came, and why it ended where one may wonder."""
        usage = result.usage
        parts = [f"[{self._class}] {usage.completion_tokens:,} tokens"]
        if result.ttft_s is not None and usage.completion_tokens > 1 and result.e2e_s > result.ttft_s:
            parts.append(f"{(usage.completion_tokens - 1) / (result.e2e_s - result.ttft_s):.1f} tokens/s")
        if result.ttft_s is not None:
            parts.append(f"first token after {result.ttft_s:.2f} s")
        if usage.num_preemptions:
            parts.append(f"stood still {usage.num_preemptions:,} times for others")
        parts.append(f"context {self._conversation.room}")
        words = ", ".join(parts)
        if self._conversation.is_full:
            return f"{words}: it is full{_NEW_ONE}"
        return f"{words}; cut off at its most tokens" if result.finish_reason is FinishReason.LENGTH else words

    # ---- what begins with a slash

    def _obey(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if command := self._commands.get(name):
            command(rest.strip().lower())
        else:
            self._terminal.note(f"There is no {name}: /help lists what there is.")

    def _choose_class(self, name: str) -> None:
        if name in list(RequestClass):
            self._class = RequestClass(name)
        else:
            self._terminal.note(f"/class: got {name!r}, allowed are {' and '.join(RequestClass)}.")

    def _reset(self, _: str) -> None:
        self._conversation.reset()
        self._terminal.note("A new conversation.")

    def _leave(self, _: str) -> None:
        self._is_over = True
