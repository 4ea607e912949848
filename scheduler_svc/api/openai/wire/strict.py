"""What every object in a body is: fields that are known, dropped as harmless, or refused with a hint."""

import inspect
from collections.abc import Set
from typing import ClassVar, get_args

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from scheduler_svc.api.openai.wire.field_texts import text_of, texts_in
from scheduler_svc.api.openai.wire.suggestions import suggestion_for
from scheduler_svc.api.openai.wire.unsupported import NeutralValues, first_refusal
from scheduler_svc.api.openai.wire.values import NOT_ALLOWED

UNKNOWN_FIELD = "unknown_field"


class Strict(BaseModel):
    """An object whose fields are all known, dropped as harmless, or refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    neutral: ClassVar[NeutralValues] = {}
    ignored: ClassVar[Set[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def drop_harmless_fields(cls, given: object) -> object:
        """Returns the fields that are known; refuses the first that is not and does not go without saying."""
        if not isinstance(given, dict):
            return given
        known = {field.alias or name for name, field in cls.model_fields.items()}
        refusal = first_refusal(given, known, cls.neutral, cls.ignored)
        if refusal is not None and not cls._is_other_type(given):
            context = {"field": refusal.field, "given": refusal.given, "allowed": refusal.allowed}
            if refusal.is_known:
                raise PydanticCustomError(NOT_ALLOWED, "{allowed}", context)
            suggestion = suggestion_for(refusal.field, known)
            raise PydanticCustomError(UNKNOWN_FIELD, "no such field", {**context, "suggestion": suggestion})
        return {field: value for field, value in given.items() if field in known}

    @classmethod
    def _is_other_type(cls, given: dict[str, object]) -> bool:
        """Whether it says to be of a type that is not known, so that its fields are not either."""
        if "type" not in cls.model_fields or not isinstance(given.get("type"), str):
            return False
        return given["type"] not in get_args(cls.model_fields["type"].annotation)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Returns the description, with the docstring's or the protos' words for fields that have none of their own."""
        schema = handler.resolve_ref_schema(handler(core))
        schema["description"], texts = texts_in(inspect.cleandoc(cls.__doc__ or ""))
        for name, field in schema.get("properties", {}).items():
            text = texts.get(name) or text_of(name)
            if "description" not in field and text is not None:
                field["description"] = text
        return schema
