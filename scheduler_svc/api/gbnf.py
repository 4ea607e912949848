"""Takes grammars that are written as llama.cpp's GBNF, or as EBNF with ::=, to Lark's notation.

Clients of vLLM send such. One in Lark's notation stays as it is.
"""

import re
from dataclasses import replace

from llguidance.gbnf_to_lark import gbnf_to_lark

from scheduler_svc.api.draft import StructureDraft, StructureKind
from scheduler_svc.errors import Amount, InvalidRequest

# It is read by Python, on the event loop: a larger one would hold others up.
MAX_GBNF_BYTES = 16_384
MAX_PROBLEM_CHARS = 300
_RULE = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)
_LARK_START = re.compile(r"^[ \t]*[?!]?start[ \t]*:(?!:=)", re.MULTILINE)


def with_lark(given: StructureDraft | None) -> StructureDraft | None:
    """Returns a structure with its grammar, if it is one, in Lark's notation."""
    if given is None or given.kind is not StructureKind.LARK:
        return given
    return replace(given, texts=tuple(in_lark(f"structure.{given.kind}", text) for text in given.texts))


def in_lark(field: str, grammar: str) -> str:
    """Returns a grammar in Lark's notation; raises InvalidRequest for one of another that can't be read."""
    if not _RULE.search(grammar) or _LARK_START.search(grammar):
        return grammar
    num_bytes = len(grammar.encode())
    if num_bytes > MAX_GBNF_BYTES:
        allowed = f"at most {MAX_GBNF_BYTES} bytes of GBNF (with ::=), more in Lark's notation, which begins at start:"
        raise InvalidRequest(field, Amount(num_bytes, "bytes"), allowed)
    try:
        return gbnf_to_lark(grammar)
    except Exception as error:  # the library raises plain ones
        reason = str(error)[:MAX_PROBLEM_CHARS]
        allowed = f"GBNF (with ::=) that begins at root, or Lark's notation, which begins at start: {reason}"
        raise InvalidRequest(field, grammar, allowed) from None
