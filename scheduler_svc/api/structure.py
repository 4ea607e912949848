"""Decides whether a text can be kept to the structure that a draft asks for, and writes that as a grammar.

Each refusal is an InvalidRequest that names the field as GenerateRequest does, what was given and what is allowed.
"""

import json
from collections.abc import Sequence

from llguidance import LLMatcher
from qllm.grammar import MAX_GRAMMAR_BYTES

from scheduler_svc.api.draft import StructureDraft, StructureKind
from scheduler_svc.errors import Amount, InvalidRequest
from scheduler_svc.generation import ServedModel
from scheduler_svc.structure.grammar_checker import GrammarChecker
from scheduler_svc.text.formats.grammar import PLAIN, AnswerGrammar
from scheduler_svc.text.formats.lark import JSON_WHITE_SPACE

MAX_PROBLEM_CHARS = 300
_ANY_OBJECT = '{"type": "object"}'


async def valid_grammar(
    given: StructureDraft | None,
    model: ServedModel,
    stop_token_ids: Sequence[int],
    grammars: GrammarChecker | None,
    answer: AnswerGrammar = PLAIN,
) -> str:
    """Returns the grammar of an answer; empty where it is kept to nothing.

    Args:
        given: What its text is kept to.
        model: The model.
        stop_token_ids: What ends the answer.
        grammars: Tries grammars.
        answer: What it may be, or must be, besides a text.

    Raises:
        InvalidRequest: It can't be followed, or takes too much.
        GrammarsUnavailable: That can't be found out now.
    """
    if answer.must_call:
        field, texts = "chat.tools", [answer.around("")]
    elif given is not None:
        field, texts = f"structure.{given.kind}", list(given.texts)
    else:
        return ""
    num_bytes = sum(len(text.encode()) for text in texts)
    if num_bytes > MAX_GRAMMAR_BYTES:
        raise InvalidRequest(field, Amount(num_bytes, "bytes"), f"at most {MAX_GRAMMAR_BYTES} bytes")
    if grammars is None:
        reason = model.no_structure_reason or "the model has no tokenizer"
        raise InvalidRequest(field, Amount(num_bytes, "bytes"), f"none: {reason}")
    if not model.eos_token_ids or not set(model.eos_token_ids) <= set(stop_token_ids):
        allowed = "none with ignore_eos, or of a model that has no such token: an end-of-sequence token ends the text"
        raise InvalidRequest(field, Amount(num_bytes, "bytes"), allowed)
    grammar = texts[0] if answer.must_call or given is None else answer.around(_grammar(field, given))
    problem = await grammars.problem(grammar)
    if problem:
        shown = given.texts[0] if given is not None and num_bytes <= MAX_PROBLEM_CHARS else Amount(num_bytes, "bytes")
        raise InvalidRequest(field, shown, f"one that can be followed: {problem[:MAX_PROBLEM_CHARS]}")
    return grammar


def _grammar(field: str, given: StructureDraft) -> str:
    match given.kind:
        case StructureKind.JSON_SCHEMA:
            return _json(field, given.texts[0])
        case StructureKind.JSON_OBJECT:
            return _json(field, _ANY_OBJECT)
        case StructureKind.REGEX:
            return LLMatcher.grammar_from_regex(_not_empty(field, given.texts[0]))
        case StructureKind.CHOICES:
            return LLMatcher.grammar_from_lark(f"start: TEXT\nTEXT: {_alternatives(field, given.texts)}")
        case StructureKind.LARK:
            return LLMatcher.grammar_from_lark(_not_empty(field, given.texts[0]))


def _json(field: str, schema: str) -> str:
    try:
        return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": JSON_WHITE_SPACE})
    except ValueError as error:
        raise InvalidRequest(field, Amount(len(schema), "characters"), f"a JSON schema: {error}") from None


def _alternatives(field: str, texts: Sequence[str]) -> str:
    if not texts or not all(texts) or len(set(texts)) != len(texts):
        raise InvalidRequest(field, Amount(len(texts), "texts"), "at least one text, each once, none of them empty")
    return " | ".join(json.dumps(text, ensure_ascii=False).replace("\x7f", r"\u007f") for text in texts)


def _not_empty(field: str, text: str) -> str:
    if not text:
        raise InvalidRequest(field, text, "a text that is not empty")
    return text
