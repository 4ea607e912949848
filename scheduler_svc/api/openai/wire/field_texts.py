"""What /openapi.json says of fields: of those that gRPC has, too, the same words, generated from the protos' comments.

Others have their text at the field, or under `Attributes` of their object's docstring. All are read when somebody asks
for the description, and not at the start.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

# Where the two names of a field differ.
_NAMES_IN_PROTOS = {
    "stop": "stop_strings",
    "top_logprobs": "num_top_logprobs",
    "prompt_logprobs": "num_prompt_logprobs",
    "include_stop_str_in_output": "include_stop_string",
    "json": "json_schema",
    "choice": "choices",
    "grammar": "lark",
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "guided_choice": "choices",
    "guided_grammar": "lark",
}
# Fields that texts speak of.
_NAMES_WITHIN = {
    ours: theirs for ours, theirs in _NAMES_IN_PROTOS.items() if theirs in ("stop_strings", "include_stop_string")
}
_ATTRIBUTES = "Attributes:\n"
_GBNF = "Or in GBNF, which has ::= and begins at root, as in vLLM; of at most 16,384 bytes."
_ALSO_OVER_HTTP = {"top_k": "-1 keeps all, too, as in vLLM.", "grammar": _GBNF, "guided_grammar": _GBNF}


def text_of(field: str) -> str | None:
    """Returns the text of a field by its name in JSON; None if no message of a request has such a field."""
    text = _texts().get(_NAMES_IN_PROTOS.get(field, field))
    if text is None:
        return None
    for ours, theirs in _NAMES_WITHIN.items():
        text = text.replace(f"`{theirs}`", f"`{ours}`")
    return f"{text} {_ALSO_OVER_HTTP[field]}" if field in _ALSO_OVER_HTTP else text


def texts_in(docstring: str) -> tuple[str, Mapping[str, str]]:
    """Returns what a docstring says of an object, and what it says of each field under `Attributes`."""
    about, _, attributes = docstring.partition(_ATTRIBUTES)
    parts = re.split(r"^    (\w+): ", attributes, flags=re.MULTILINE)[1:]
    return about.strip(), {name: " ".join(text.split()) for name, text in zip(parts[::2], parts[1::2], strict=True)}


@cache
def _texts() -> Mapping[str, str]:
    """Returns the texts by the field's own name; of two of one name, that of the outer message."""
    by_path: dict[str, str] = json.loads(files(__package__).joinpath("field_texts.json").read_text("utf-8"))
    return {path.partition(".")[2]: text for path, text in reversed(by_path.items())}
