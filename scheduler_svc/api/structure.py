"""Decides whether an answer can be kept to what a draft asks for, a structure or calls, and writes that as a grammar.

Each refusal is an InvalidRequest that names the field as GenerateRequest does, what was given and what is allowed.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llguidance import LLMatcher
from qllm.grammar import MAX_GRAMMAR_BYTES

from scheduler_svc.api.draft import StructureDraft, StructureKind
from scheduler_svc.errors import Amount, InvalidRequest
from scheduler_svc.generation import ServedModel
from scheduler_svc.structure.grammar_checker import GrammarChecker
from scheduler_svc.text.formats.grammar import PLAIN, AnswerGrammar
from scheduler_svc.text.formats.grammar_parts import Grammar, JsonSchema, LarkText, Part
from scheduler_svc.text.formats.lark import JSON_WHITE_SPACE, NotFollowed, alternatives, quoted, regex
from scheduler_svc.text.formats.pieces import Function

MAX_PROBLEM_CHARS = 300
_ANY_OBJECT = '{"type": "object"}'
# How the library says where in a grammar something is wrong, and shows that: of no use where the grammar is ours.
_PLACE = re.compile(r"^at \d+\(\d+\): |\n +\d+ \| .*", re.DOTALL)


async def valid_grammar(
    given: StructureDraft | None,
    model: ServedModel,
    stop_token_ids: Sequence[int],
    grammars: GrammarChecker | None,
    answer: AnswerGrammar = PLAIN,
) -> str:
    """Returns the grammar of an answer; empty where it is kept to nothing.

    A structure is judged also where the answer has to be calls, and so has no text that could follow it.

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
    body = None if given is None else _body(given)
    if body is None and not answer.must_call:
        return ""
    field, shown = _asked_by(given, answer)
    if grammars is None:
        raise InvalidRequest(field, shown, f"none: {model.no_structure_reason or 'the model has no tokenizer'}")
    if not model.eos_token_ids:
        raise InvalidRequest(field, shown, "none: the model has no end-of-sequence token, which would end the answer")
    if not set(model.eos_token_ids) <= set(stop_token_ids):
        why = "has to be calls" if answer.must_call else "is kept to a structure"
        raise InvalidRequest("stop.ignore_eos", True, f"false where an answer {why}, which such a token ends")
    return await _Trial(given, body, grammars).followed(answer)


@dataclass(frozen=True, slots=True)
class _Trial:
    """Tries what an answer is kept to.

    Attributes:
        given: The structure of its text, if there is one.
        body: The same as a grammar.
        grammars: Tries grammars.
    """

    given: StructureDraft | None
    body: Part | None
    grammars: GrammarChecker

    async def followed(self, answer: AnswerGrammar) -> str:
        """Returns an answer's grammar; what of it can't be followed is refused by its name."""
        if answer.must_call:
            await self._require_text(PLAIN)
        try:
            whole = answer.around(self.body)
        except NotFollowed as unfollowed:
            raise _unfollowed(unfollowed.function, unfollowed.reason) from None
        assert whole is not None  # there is a structure, or there have to be calls
        if answer.functions and whole.num_bytes > MAX_GRAMMAR_BYTES:
            allowed = f"functions that take at most {MAX_GRAMMAR_BYTES} bytes as a grammar"
            beside = "" if self.body is None or answer.must_call else ", with the structure of the text"
            raise InvalidRequest("chat.tools", Amount(whole.num_bytes, "bytes"), allowed + beside)
        problem = await self._problem(whole)
        if problem:
            if not answer.must_call:
                await self._require_text(answer.of_text())
            await self._refuse_function(answer, problem)
        return whole.text()

    async def _require_text(self, answer: AnswerGrammar) -> None:
        """Refuses a structure that can't be followed by itself."""
        grammar = answer.around(self.body)
        if self.given is not None and grammar is not None and (problem := await self._problem(grammar)):
            told = problem if self.given.kind is StructureKind.LARK else _PLACE.sub("", problem)
            allowed = f"one that can be followed: {told[:MAX_PROBLEM_CHARS]}"
            raise InvalidRequest(self.given.field, self.given.shown, allowed)

    async def _refuse_function(self, answer: AnswerGrammar, problem: str) -> None:
        """Refuses the function whose calls can't be followed; tells that of all of them if it is no single one."""
        functions = answer.functions
        while len(functions) > 1:  # a trial takes its time, so there are few of them
            half = functions[: len(functions) // 2]
            functions = half if await self._calls_problem(answer, half) else functions[len(half) :]
        alone = await self._calls_problem(answer, functions)
        if not alone:
            given = Amount(len(answer.functions), "functions")
            raise InvalidRequest("chat.tools", given, _allowed("functions that can be followed together", problem))
        raise _unfollowed(functions[0].name, alone)

    async def _calls_problem(self, answer: AnswerGrammar, functions: Sequence[Function]) -> str:
        grammar = replace(answer, functions=functions, must_call=True).around()
        return "" if grammar is None else await self._problem(grammar)

    async def _problem(self, grammar: Grammar) -> str:
        return await self.grammars.problem(grammar.text())


def _asked_by(given: StructureDraft | None, answer: AnswerGrammar) -> tuple[str, object]:
    """Returns the field that keeps an answer to something, and what it was given."""
    if given is not None and not answer.must_call:
        return given.field, given.shown
    return "chat.tools", Amount(len(answer.functions), "functions that have to be called")


def _unfollowed(function: str, problem: str) -> InvalidRequest:
    return InvalidRequest("chat.tools", function, _allowed("functions whose schemas can be followed", problem))


def _allowed(what: str, problem: str) -> str:
    return f"{what}: {_PLACE.sub('', problem).strip()[:MAX_PROBLEM_CHARS]}"


def _body(given: StructureDraft) -> Part:
    num_bytes = sum(len(text.encode(errors="surrogatepass")) for text in given.texts)
    if num_bytes > MAX_GRAMMAR_BYTES:
        raise InvalidRequest(given.field, Amount(num_bytes, "bytes"), f"at most {MAX_GRAMMAR_BYTES} bytes")
    match given.kind:
        case StructureKind.JSON_SCHEMA:
            return _json(given.field, given.texts[0])
        case StructureKind.JSON_OBJECT:
            return _json(given.field, _ANY_OBJECT)
        case StructureKind.REGEX:
            return LarkText(f"start: {regex(_not_empty(given))}")
        case StructureKind.CHOICES:
            return LarkText(f"start: TEXT\nTEXT: {_one_of(given)}")
        case StructureKind.LARK:
            return LarkText(_not_empty(given))


def _json(field: str, schema: str) -> JsonSchema:
    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": JSON_WHITE_SPACE})
    except ValueError as error:
        raise InvalidRequest(field, Amount(len(schema), "characters"), f"a JSON schema: {error}") from None
    return JsonSchema(json.loads(grammar)["grammars"][0]["json_schema"])


def _one_of(given: StructureDraft) -> str:
    texts = given.texts
    if not texts or not all(texts) or len(set(texts)) != len(texts):
        allowed = "at least one text, each once, none of them empty"
        raise InvalidRequest(given.field, Amount(len(texts), "texts"), allowed)
    return alternatives(map(quoted, texts))


def _not_empty(given: StructureDraft) -> str:
    if not given.texts[0]:
        raise InvalidRequest(given.field, "", "a text that is not empty")
    return given.texts[0]
