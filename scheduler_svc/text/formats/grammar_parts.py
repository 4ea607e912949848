"""Grammars as llguidance takes them: parts with names, each of which is a Lark text or a JSON schema.

What a part is stands beside it, and is never told from its text, which a caller may have written.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LarkText:
    """Rules in llguidance's variant of Lark; the first is `start`."""

    text: str

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return len(self.text.encode())

    def entry(self) -> dict[str, Any]:
        """Returns it as llguidance has it in a list."""
        return {"lark_grammar": self.text}


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """A schema of JSON."""

    schema: Mapping[str, Any]

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return len(json.dumps(self.schema, ensure_ascii=False, separators=(",", ":")).encode())

    def entry(self) -> dict[str, Any]:
        """Returns it as llguidance has it in a list."""
        return {"json_schema": self.schema}


Part = LarkText | JsonSchema


@dataclass(frozen=True, slots=True)
class Grammar:
    """All that one text is kept to.

    Attributes:
        first: Where it begins.
        body: What `@body` stands for in the first part, if it has that.
    """

    first: Part
    body: Part | None = None

    @property
    def num_bytes(self) -> int:
        """Its size, as it was written."""
        return self.first.num_bytes + (0 if self.body is None else self.body.num_bytes)

    def text(self) -> str:
        """Returns it as the worker takes it."""
        entries = [self.first.entry()]
        if self.body is not None:
            entries.append({"name": "body", **self.body.entry()})
        return json.dumps({"grammars": entries})
