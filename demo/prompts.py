"""What the demo asks: best-effort prompts are real source files, latency-sensitive ones are short questions."""

import random
import sysconfig
from functools import cache
from pathlib import Path

from client import ChatMessage, GenerateOptions, Prompt, RequestClass

_MIN_SOURCE_CHARS = 10_000

_QUESTIONS = (
    "What does os.path.join do?",
    "Write a function that reads a file.",
    "How do I sort a list of strings?",
    "What is a context manager?",
    "Write a class with a __repr__ method.",
    "How do I parse a date?",
    "What does functools.cache do?",
    "Write a test for a parser.",
    "How do I open a socket?",
    "What is an iterator?",
    "Write a function that counts words.",
    "How do I raise an exception?",
)


class DemoWorkload:
    """Python source to be continued by best-effort clients, and chat questions by people who wait."""

    def __init__(self, *, seed: int, be_prompt_chars: int, be_max_tokens: int, ls_max_tokens: int) -> None:
        self._seed = seed
        self._be_prompt_chars = be_prompt_chars
        self._max_tokens = {
            RequestClass.LATENCY_SENSITIVE: ls_max_tokens,
            RequestClass.BEST_EFFORT: be_max_tokens,
        }

    def prompt(self, request_class: RequestClass, index: int) -> Prompt:
        """Returns the class's prompt number `index`."""
        if request_class is RequestClass.LATENCY_SENSITIVE:
            return [ChatMessage("user", _QUESTIONS[index % len(_QUESTIONS)])]
        chance = random.Random(f"{self._seed} {index}")
        source = chance.choice(_sources()).read_text()
        start = source.index("\n", chance.randrange(len(source) - self._be_prompt_chars)) + 1
        return source[start : start + self._be_prompt_chars]

    def options(self, request_class: RequestClass) -> GenerateOptions:
        """Returns greedy decoding of a fixed length, so that every run does the same work."""
        return GenerateOptions(max_tokens=self._max_tokens[request_class], temperature=0.0, ignore_eos=True)


@cache
def _sources() -> tuple[Path, ...]:
    """Returns the larger ASCII modules of the standard library, in a fixed order."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(folder.glob("*.py"))
    return tuple(file for file in files if file.stat().st_size > _MIN_SOURCE_CHARS and file.read_bytes().isascii())
