"""What the demo asks: best-effort prompts are real source files, latency-sensitive ones are short questions."""

import random
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from qllm.client.bench.load.target import Target
from qllm.client.bench.load.workload import LS
from qllm.client.messages import RequestClass

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


@dataclass(frozen=True, slots=True)
class DemoPrompts:
    """Python source to be continued by best-effort requests, and questions of latency-sensitive ones.

    Attributes:
        seed: Fixes all prompts.
    """

    seed: int

    def draw(self, request_class: RequestClass, index: int, num_tokens: int) -> str:
        """Returns the class's prompt number `index`; its source has `num_tokens` characters, so no more tokens."""
        if request_class is LS:
            return _QUESTIONS[index % len(_QUESTIONS)]
        chance = random.Random(f"{self.seed} {index}")
        source = chance.choice(_sources()).read_text()
        start = source.index("\n", chance.randrange(len(source) - num_tokens)) + 1
        return source[start : start + num_tokens]

    async def fit(self, target: Target, vocab_size: int) -> "DemoPrompts":
        """Returns the same prompts: they suit any model that takes text."""
        return self


@cache
def _sources() -> tuple[Path, ...]:
    """Returns the larger ASCII modules of the standard library, in a fixed order."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(folder.glob("*.py"))
    return tuple(file for file in files if file.stat().st_size > _MIN_SOURCE_CHARS and file.read_bytes().isascii())
