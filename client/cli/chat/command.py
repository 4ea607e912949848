"""`qllm-client chat`: what it may be told, and how it begins."""

from dataclasses import dataclass
from typing import Annotated

import typer
from qllm.client.cli.chat.chat import Chat
from qllm.client.cli.chat.conversation import Conversation
from qllm.client.cli.chat.terminal import Terminal
from qllm.client.cli.option_names import OptionNames
from qllm.client.cli.session import EXIT_REFUSED, Address, address_default, complain, connect_blocking, reporting
from qllm.client.errors import PermissionDenied
from qllm.client.messages import GenerateOptions, RequestClass
from qllm.client.sync_client import Client
from qllm.options import with_settings
from qllm.settings import Setting

EXAMPLES = """
[bold]Examples[/bold]

  qllm-client chat --system "Be brief."

  qllm-client chat --class be --max-tokens 1000 --temperature 0

  qllm-client chat < questions.txt > answers.txt
"""


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """What all questions have in common."""

    request_class: Annotated[
        RequestClass,
        Setting(option="class"),
        "Sets the class of the requests: ls where someone is waiting for the answer, be for work that can wait. /class "
        "changes it.",
    ] = RequestClass.LATENCY_SENSITIVE
    system: Annotated[str | None, Setting(), "Sets the system message of the conversation."] = None
    session_id: Annotated[
        str | None,
        Setting(option="session", metavar="NAME", unset="one of its own"),
        "Names the session that the turns are of. What is cached of a turn may then be kept for the next one.",
    ] = None
    max_tokens: Annotated[
        int | None,
        Setting(unset="256, or what still fits"),
        "Limits how many tokens an answer has.",
    ] = None
    temperature: Annotated[
        float | None,
        Setting(unset="the model's own"),
        "Sets how freely tokens are chosen. With 0 the most probable one is always taken.",
    ] = None
    top_p: Annotated[
        float | None,
        Setting(unset="the model's own"),
        "Chooses among the fewest tokens whose probabilities together reach this one.",
    ] = None
    seed: Annotated[int | None, Setting(unset="a random one"), "Makes the choices repeatable."] = None

    @property
    def options(self) -> GenerateOptions:
        """What every request says besides its class and session."""
        return GenerateOptions(
            max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p, seed=self.seed
        )


@with_settings
def chat(settings: ChatSettings, address: Address = address_default) -> None:
    """Holds a conversation: each line is a question, and all that was said before goes with it.

    After each answer stand its class, its pace and how much of the model's context is taken. Ctrl-C cancels an answer
    and not the conversation; Ctrl-D leaves, and so does Ctrl-C where nothing is typed. /help lists what else there is;
    a question that begins with a slash is typed with two.

    Where standard input is no terminal, its lines are the questions. Answers go to standard output, and all else to
    standard error, such as what a model thinks; the first question that is refused ends it with exit code 1.
    """
    terminal = Terminal()
    names = OptionNames(ChatSettings)
    with reporting(tell=names.told), connect_blocking(address) as client:
        conversation = Conversation(settings.system, settings.session_id, _greet(client, address, terminal))
        try:
            Chat(client, conversation, terminal, settings.request_class, settings.options, names.told).run()
        except UnicodeDecodeError as error:
            complain(f"standard input is not UTF-8 text: {error.reason}")
            raise typer.Exit(EXIT_REFUSED) from None


def _greet(client: Client, address: str, terminal: Terminal) -> int | None:
    """Says who answers, and returns how many tokens its context holds, if that is known."""
    try:
        model = client.server_info().model
    except PermissionDenied:
        return None
    if terminal.is_interactive:
        terminal.note(f"{model.name or 'A service without a model yet'} at {address}. /help lists what there is.")
    return model.max_model_len or None
