"""Values of fields: texts, lists, and values of which the kind decides what is expected.

Types are strict, as in OpenAI's API, and lists end at their first bad item, so that an error costs no more than a
success.
"""

from collections.abc import Callable
from typing import Annotated, TypeAlias

from pydantic import Discriminator, Field

NOT_ALLOWED = "not_allowed"
# A part of an error's location that starts so is a kind of value, no field.
KIND_MARK = "<"


def text_or_list(given: object) -> str | None:
    """Returns which of both a value is; None: neither."""
    if isinstance(given, str):
        return "<text>"
    return "<list>" if isinstance(given, list) else None


def text_or_object(given: object) -> str | None:
    """Returns which of both a value is; None: neither."""
    if isinstance(given, str):
        return "<text>"
    return "<object>" if isinstance(given, dict) else None


def by_kind(kind: Callable[[object], str | None], allowed: str) -> Discriminator:
    """Makes the kind of a value decide what is expected of it, so that an error speaks of that kind alone."""
    return Discriminator(kind, custom_error_type=NOT_ALLOWED, custom_error_message=allowed)


TokenIds: TypeAlias = Annotated[list[int], Field(fail_fast=True)]
# Without halves of characters, which are refused where bodies are read.
Texts: TypeAlias = Annotated[list[str], Field(fail_fast=True)]
