"""Says what the service or the client refuses by the options of a command, where those have other names."""

import re

from qllm.client.errors import QllmError
from qllm.client.hints import told
from qllm.settings import settings_of

# Fields that are given one by one, or are called after what they count.
_FIELDS = {
    "bad_words": "bad_word",
    "choices": "choice",
    "texts": "choice",
    "stop_strings": "stop",
    "stop_token_ids": "stop_token_id",
    "num_prompt_logprobs": "prompt_logprobs",
    "num_choices": "n",
}
_PART = r"[a-z_]+(?:\[[^\]]*\])?"
_SUBJECT = re.compile(rf"(?P<path>{_PART}(?:\.{_PART})*)(?=: )")
_INDEX = re.compile(r"\[[^\]]*\]")
_MENTIONED = re.compile(r"(?<!['\w-])[a-z]+(?:_[a-z]+)+\b(?!')")


class OptionNames:
    """The options of a command.

    Args:
        settings: The dataclass of its settings.
    """

    def __init__(self, settings: type) -> None:
        options = {one.field: one.option for one in settings_of(settings)}
        others = {name: options[field] for name, field in _FIELDS.items() if field in options}
        self._options: dict[str, str] = {**options, **others}

    def told(self, error: QllmError) -> str:
        """Returns the line in which the command says an error."""
        status, colon, message = told(error).partition(": ")
        subject = _SUBJECT.match(message)
        end = subject.end() if subject else 0
        option = self._option_of(subject["path"]) if subject else ""
        return f"{status}{colon}{option}{_MENTIONED.sub(self._mentioned, message[end:])}"

    def _option_of(self, path: str) -> str:
        """Returns the option that sets a field; the path itself where none does."""
        return self._options.get(_INDEX.sub("", path).rpartition(".")[2], path)

    def _mentioned(self, name: re.Match[str]) -> str:
        return self._options.get(name[0], name[0])
