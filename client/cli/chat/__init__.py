"""`qllm-client chat`: a conversation in the terminal, or one whose questions are the lines of a file."""

from qllm.client.cli.chat.command import EXAMPLES, chat

__all__ = ["EXAMPLES", "chat"]
