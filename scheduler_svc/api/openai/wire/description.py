"""Makes FastAPI's description of the API true: how errors leave, what answers are, and short names of objects.

FastAPI promises its own 422 wherever there is a body; here every bad one is a 400 with an error of OpenAI's form.
"""

from typing import Any

from fastapi import FastAPI

_ERROR = {
    "title": "Error",
    "description": "Why a request was refused, or failed.",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "description": "The error.",
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "Names the field, what was given and what is allowed."},
                "type": {
                    "enum": ["invalid_request_error", "rate_limit_error", "server_error"],
                    "description": "The kind of error.",
                },
                "param": {"type": ["string", "null"], "description": "The field that is not allowed."},
                "code": {"type": ["string", "null"], "description": "What programs know the error by, if they do."},
            },
        }
    },
}
_REFUSED = {
    "description": "A field is not allowed; the message names it.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
_FOREIGN = ("HTTPValidationError", "ValidationError")
_REFERENCE = "#/components/schemas/"


def describe(app: FastAPI) -> None:
    """Has an application describe itself so."""
    of_fastapi = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _mended(of_fastapi())
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]  # as FastAPI's documentation does


def _mended(description: dict[str, Any]) -> dict[str, Any]:
    for methods in description["paths"].values():
        for method in methods.values():
            responses = method["responses"]
            if responses.pop("422", None):
                responses["400"] = _REFUSED
            content = responses.get("200", {}).get("content", {}).get("application/json", {})
            if content.get("schema") == {}:
                content["schema"] = {"type": "object"}
    components = description.setdefault("components", {})
    schemas = {name: one for name, one in components.get("schemas", {}).items() if name not in _FOREIGN}
    components["schemas"] = {**schemas, "Error": _ERROR}
    renamed: dict[str, Any] = _renamed(description, {f"{_REFERENCE}{name}": _short(name) for name in schemas})
    return renamed


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """Returns plain data with other names of objects, where these stand and where they are meant."""
    if isinstance(value, dict):
        return {
            names.get(f"{_REFERENCE}{key}", key) if "__" in key else key: _renamed(one, names)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [_renamed(one, names) for one in value]
    return f"{_REFERENCE}{names[value]}" if isinstance(value, str) and value in names else value


def _short(name: str) -> str:
    """Returns a name without the modules by which pydantic tells two of one name apart."""
    modules, _, last = name.rpartition("__")
    return f"Response{last}" if "responses" in modules else last
