"""Owns the training text: the standard library's own source, cut into documents, snippets and dialogues.

Reads the ``.py`` files of the interpreter that runs it (PSF licence), leaves out tests and tables of data, and makes
question and answer pairs from functions and their docstrings. Knows nothing about tokens or models.
"""

import ast
import random
import sysconfig
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SKIPPED_FOLDERS = frozenset(
    {
        "__pycache__",
        "_bundled",
        "dist-packages",
        "encodings",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
    }
)
SKIPPED_FILES = ("_sysconfigdata", "entities.py", "locale.py", "stringprep.py", "this.py")

MIN_ANSWER_CHARS = 40
MAX_ANSWER_CHARS = 900
MAX_QUESTION_CHARS = 200
SYSTEM_PROMPTS = ("You are a helpful assistant.", "You write Python.", "You are QLLM's demo model. Answer in Python.")
SYSTEM_PROMPT_RATE = 0.25


@dataclass(frozen=True, slots=True)
class Document:
    """One source file."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Function:
    """One function or method of a document, moved to the left margin."""

    name: str
    qualified_name: str
    source: str
    docstring: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One question and its answer, with an optional system prompt."""

    system: str | None
    user: str
    assistant: str

    def messages(self) -> list[dict[str, str]]:
        """Returns the turns in the form that chat templates take."""
        turns = [("user", self.user), ("assistant", self.assistant)]
        if self.system is not None:
            turns.insert(0, ("system", self.system))
        return [{"role": role, "content": content} for role, content in turns]


def read_documents(root: Path | None = None) -> list[Document]:
    """Reads the standard library's source files, in the order of their paths.

    Args:
        root: The folder to read; the running interpreter's standard library when None.
    """
    folder = root or Path(sysconfig.get_path("stdlib"))
    paths = sorted(path for path in folder.rglob("*.py") if _is_wanted(path.relative_to(folder)))
    documents = [Document(path.relative_to(folder).as_posix(), _read_text(path)) for path in paths]
    return [document for document in documents if document.text.strip()]


def split_documents(
    documents: Sequence[Document], held_out_fraction: float, seed: int
) -> tuple[list[Document], list[Document]]:
    """Splits documents at random into those to train on and those held out (at least one)."""
    shuffled = list(documents)
    random.Random(seed).shuffle(shuffled)
    num_held_out = max(1, round(len(shuffled) * held_out_fraction))
    return shuffled[num_held_out:], shuffled[:num_held_out]


def extract_functions(document: Document) -> list[Function]:
    """Returns the document's functions whose source is neither trivial nor long; none when it does not parse."""
    try:
        tree = ast.parse(document.text)
    except SyntaxError:
        return []
    module = document.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    functions = _walk_functions(tree, module, document.text.splitlines())
    return [function for function in functions if _has_answer_length(function.source)]


def make_dialogues(functions: Sequence[Function], seed: int) -> list[Dialogue]:
    """Makes every question that a function can answer: by its name, by its docstring, about its docstring."""
    rng = random.Random(seed)
    pairs = [pair for function in functions for pair in _questions(function)]
    return [Dialogue(_choose_system(rng), user, assistant) for user, assistant in pairs]


def _is_wanted(path: Path) -> bool:
    is_skipped_file = path.name.startswith(SKIPPED_FILES)
    return not is_skipped_file and SKIPPED_FOLDERS.isdisjoint(path.parts[:-1])


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="ignore").expandtabs()


def _walk_functions(parent: ast.AST, prefix: str, lines: Sequence[str]) -> Iterator[Function]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.ClassDef):
            yield from _walk_functions(node, f"{prefix}.{node.name}", lines)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            source = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
            yield Function(node.name, f"{prefix}.{node.name}", source, ast.get_docstring(node) or "")


def _questions(function: Function) -> Iterator[tuple[str, str]]:
    if not function.name.startswith("__"):
        yield f"Write a function `{function.name}`.", function.source
    summary = function.docstring.split("\n\n")[0].replace("\n", " ").strip()
    if summary and len(summary) <= MAX_QUESTION_CHARS:
        yield summary, function.source
    if _has_answer_length(function.docstring):
        yield f"What does `{function.qualified_name}` do?", function.docstring


def _choose_system(rng: random.Random) -> str | None:
    return rng.choice(SYSTEM_PROMPTS) if rng.random() < SYSTEM_PROMPT_RATE else None


def _has_answer_length(text: str) -> bool:
    return MIN_ANSWER_CHARS <= len(text) <= MAX_ANSWER_CHARS
