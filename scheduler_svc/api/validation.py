"""Decides whether the fields of a draft are allowed, and fills in what was left out.

Each refusal is an InvalidRequest that names the field as GenerateRequest does, what was given and what is allowed.
Knows nothing of text: prompts are counted in tokens here and made of text in prompt.py.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qllm.settings import plain, settings_of

from scheduler_svc.api.draft import StopDraft, StructureDraft, TargetsDraft
from scheduler_svc.core.policies import Limits
from scheduler_svc.core.state.sequence import RequestClass, StopConditions, Targets
from scheduler_svc.errors import Amount, ContextExceeded, InvalidRequest, Words
from scheduler_svc.generation import ServedModel
from scheduler_svc.text.tokenizer import Tokenizer

MAX_REQUEST_ID_CHARS = 128
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_BYTES = 256
MAX_STOP_TOKEN_IDS = 64
# A request may ask for what an operator may promise.
_PROMISES = {one.field: one.setting for one in settings_of(Limits)}
MAX_TTFT_MS, MAX_TPOT_MS = _PROMISES["ls_ttft_s"].high, _PROMISES["ls_tpot_s"].high


@dataclass(frozen=True, slots=True)
class UnknownToken:
    """A token to show in an error."""

    token_id: int
    text: str

    def __repr__(self) -> str:
        return f"the token {self.text[:60]!r} with id {self.token_id}"


def context_tokens(model: ServedModel) -> int:
    """Returns the most tokens that one sequence can have."""
    return model.core.max_sequence_tokens


def valid_request_id(given: str) -> str:
    """Returns the id, or a new one if it is empty."""
    if not given:
        return f"gen-{uuid.uuid4().hex}"
    require_request_id(given)
    return given


def require_request_id(given: str) -> None:
    """Raises InvalidRequest unless `given` can be the id of a request."""
    if not 1 <= len(given) <= MAX_REQUEST_ID_CHARS or not (given.isascii() and given.isprintable()):
        raise InvalidRequest("request_id", given, f"1 to {MAX_REQUEST_ID_CHARS} printable ASCII characters")


def valid_targets(given: TargetsDraft, request_class: RequestClass) -> Targets:
    """Returns the times that a request asks for itself; a best-effort one may not ask: nothing would come of it."""
    return Targets(
        ttft_s=_valid_target("targets.ttft_ms", given.ttft_ms, MAX_TTFT_MS, request_class),
        tpot_s=_valid_target("targets.tpot_ms", given.tpot_ms, MAX_TPOT_MS, request_class),
    )


def _valid_target(field: str, given_ms: float | None, most_ms: float, request_class: RequestClass) -> float | None:
    """Returns the time in seconds."""
    if given_ms is None:
        return None
    if request_class is RequestClass.BEST_EFFORT:
        raise InvalidRequest(field, given_ms, "nothing: a best-effort request is promised no time")
    if not 0 <= given_ms <= most_ms:
        raise InvalidRequest(field, given_ms, f"a number in [0, {plain(most_ms)}], 0 for as soon as possible")
    return given_ms * 1e-3


def valid_stop_strings(given: Sequence[str], tokenizer: Tokenizer | None) -> tuple[str, ...]:
    """Returns the strings that end the text; one that could never be met is refused."""
    field = "stop.stop_strings"
    if len(given) > MAX_STOP_STRINGS:
        raise InvalidRequest(field, Amount(len(given), "strings"), f"at most {MAX_STOP_STRINGS} strings")
    if given and tokenizer is None:
        raise InvalidRequest(field, Amount(len(given), "strings"), "none: the model has no tokenizer")
    for index, stop_string in enumerate(given):
        num_bytes = len(stop_string.encode())
        if not 1 <= num_bytes <= MAX_STOP_STRING_BYTES:
            shown = stop_string if not stop_string else Amount(num_bytes, "bytes")
            raise InvalidRequest(f"{field}[{index}]", shown, f"1 to {MAX_STOP_STRING_BYTES} bytes")
        if tokenizer is not None:
            _require_reachable(f"{field}[{index}]", stop_string, tokenizer)
    return tuple(dict.fromkeys(given))


def _require_reachable(field: str, stop_string: str, tokenizer: Tokenizer) -> None:
    """Special tokens are no part of the text, which has one inside only where other tokens happen to spell it."""
    if _special_token(stop_string, tokenizer.special_tokens) is not None:
        return  # the token itself ends the text
    inside = next((token for token in tokenizer.special_tokens if token and token in stop_string), None)
    if inside is not None:
        allowed = f"a text, or a special token by itself: {inside!r} is one, and is no part of the text"
        raise InvalidRequest(field, stop_string, allowed)


def _special_token(stop_string: str, special_tokens: Mapping[str, int]) -> str | None:
    """Returns the special token that a stop string is, white space after it aside: it comes first and ends the text."""
    return next((text for text in (stop_string, stop_string.rstrip()) if text and text in special_tokens), None)


def stop_tokens_of(stop_strings: Sequence[str], tokenizer: Tokenizer | None, vocab_size: int) -> dict[int, str]:
    """Returns the stop strings that are special tokens, by id, as far as the model can generate them."""
    special = tokenizer.special_tokens if tokenizer is not None else {}
    found: dict[int, str] = {}
    for stop_string in stop_strings:
        token = _special_token(stop_string, special)
        if token is not None and special[token] < vocab_size:
            found.setdefault(special[token], stop_string)
    return found


def valid_token_ids(field: str, given: Sequence[int], vocab_size: int) -> tuple[int, ...]:
    """Returns the ids, all of them in the vocabulary."""
    token_ids = tuple(given)
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
        index = next(index for index, token_id in enumerate(token_ids) if not 0 <= token_id < vocab_size)
        raise InvalidRequest(f"{field}[{index}]", token_ids[index], f"a token id in [0, {vocab_size - 1}]")
    return token_ids


@dataclass(frozen=True, slots=True)
class RequestedStop:
    """When a request wants to stop, before the length of its prompt is known.

    Attributes:
        max_tokens: None for `default_max_tokens`, as far as the context holds them.
        stop_token_ids: The model's own end tokens, unless ignored, and the request's, special tokens among its stop
            strings included.
    """

    max_tokens: int | None
    default_max_tokens: int
    min_tokens: int
    stop_token_ids: tuple[int, ...]

    def conditions(self, num_prompt_tokens: int, max_context_tokens: int) -> StopConditions:
        """Returns the conditions for a prompt that leaves room for at least one token.

        Raises:
            InvalidRequest: Prompt and output together are longer than the context.
        """
        room = max_context_tokens - num_prompt_tokens
        max_tokens = min(self.default_max_tokens, room) if self.max_tokens is None else self.max_tokens
        if max_tokens > room:
            allowed = f"1 to {room}: the context of {max_context_tokens} tokens less {num_prompt_tokens} of the prompt"
            raise ContextExceeded("stop.max_tokens", max_tokens, allowed)
        if self.min_tokens > max_tokens:
            raise InvalidRequest("stop.min_tokens", self.min_tokens, f"0 to max_tokens, which is {max_tokens}")
        return StopConditions(max_tokens, self.min_tokens, self.stop_token_ids)


def valid_stop(
    given: StopDraft, model: ServedModel, also: Iterable[int] = (), *, may_be_empty: bool = False
) -> RequestedStop:
    """Returns when the request wants to stop, as far as can be judged without its prompt.

    Args:
        given: What it says.
        model: The model.
        also: Further tokens that end the text.
        may_be_empty: Whether it may ask for no token at all, since something is told of its prompt.
    """
    max_tokens = given.max_tokens
    most = context_tokens(model) - 1
    if max_tokens == 0 and not may_be_empty:
        allowed = f"1 to {most}; 0 only where log-probabilities of the prompt are asked for, or, over HTTP, its echo"
        raise InvalidRequest("stop.max_tokens", max_tokens, allowed)
    if max_tokens is not None and not 0 <= max_tokens <= most:
        allowed = f"1 to {most}: the context of {most + 1} tokens less at least one of the prompt"
        raise InvalidRequest("stop.max_tokens", max_tokens, allowed)
    if given.min_tokens < 0 or (max_tokens is not None and given.min_tokens > max_tokens):
        limit = "max_tokens" if max_tokens is None else f"max_tokens, which is {max_tokens}"
        raise InvalidRequest("stop.min_tokens", given.min_tokens, f"0 to {limit}")
    field = "stop.stop_token_ids"
    if len(given.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidRequest(field, Amount(len(given.stop_token_ids), "ids"), f"at most {MAX_STOP_TOKEN_IDS} ids")
    own = () if given.ignore_eos else model.eos_token_ids
    further = valid_token_ids(field, given.stop_token_ids, model.vocab_size)
    token_ids = tuple(dict.fromkeys((*own, *further, *also)))
    return RequestedStop(max_tokens, given.default_max_tokens, given.min_tokens, token_ids)


def require_kept_text(structure: StructureDraft | None, max_tokens: int | None) -> None:
    """Raises InvalidRequest for a structure where no text is asked for."""
    if structure is not None and max_tokens == 0:
        allowed = "nothing with max_tokens 0: there is no text to keep to it"
        raise InvalidRequest(f"structure.{structure.kind}", Words("a structure"), allowed)


def num_kept_tokens(given: int | None, stop: StopDraft, max_context_tokens: int) -> int | None:
    """Returns how many tokens of a prompt are kept at most; None where it is refused if it is too long.

    With -1 it is as many as the context holds beside what is to be generated: max_tokens, or their default, but that
    takes no more than half of the context.
    """
    most = max_context_tokens - 1
    if given == -1:
        default = min(stop.default_max_tokens, max_context_tokens // 2)
        return max(1, max_context_tokens - max(1, default if stop.max_tokens is None else stop.max_tokens))
    if given is not None and not 1 <= given <= most:
        allowed = f"-1, or 1 to {most}: the context of {max_context_tokens} tokens less one to generate"
        raise InvalidRequest("truncate_prompt_tokens", given, allowed)
    return given


def require_prompt_length(field: str, num_tokens: int, max_context_tokens: int) -> None:
    """Raises InvalidRequest unless the prompt has a token and leaves room for one more."""
    if not 1 <= num_tokens < max_context_tokens:
        allowed = f"1 to {max_context_tokens - 1} tokens: the context of {max_context_tokens} less one to generate"
        kind = ContextExceeded if num_tokens else InvalidRequest
        raise kind(field, Amount(num_tokens, "tokens"), allowed)
