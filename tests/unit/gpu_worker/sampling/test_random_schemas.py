"""Texts of random JSON schemas, written by random tokens, are JSON of their schema. QLLM_SCHEMAS=500 tries more."""

import json
import os
import random
from typing import Any

import jsonschema
import pytest
from llguidance import LLMatcher

from tests.support.models.sample_tokenizers import EOS_ID
from tests.support.worker.guided import allowed, guides, tokenizer

NUM_SCHEMAS = int(os.environ.get("QLLM_SCHEMAS", "40"))
MOST_TOKENS = 3000


Schema = dict[str, Any]


def integer(rng: random.Random, _: int) -> Schema:
    low = rng.randint(-1000, 1000)
    return {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 5000)}


def number(rng: random.Random, _: int) -> Schema:
    return {"type": "number", "minimum": rng.randint(-9, 0), "maximum": rng.randint(1, 99)}


def string(rng: random.Random, _: int) -> Schema:
    least = rng.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 6)}


def fixed(rng: random.Random, _: int) -> Schema:
    values = rng.sample(["a", "日本", 'q"uote', 1, 2.5, None, True, "x"], rng.randint(1, 5))
    plain: list[Schema] = [{"type": "boolean"}, {"type": "null"}, {"const": {"a": [1, 2]}}, {"enum": values}]
    return rng.choice(plain)


def formatted(rng: random.Random, _: int) -> Schema:
    return {"type": "string", "format": rng.choice(["date", "uuid", "ipv4"])}


def an_object(rng: random.Random, depth: int) -> Schema:
    properties = {f"p{index}": schema_of(rng, depth - 1) for index in range(rng.randint(0, 4))}
    required = [name for name in properties if rng.random() < 0.6]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def array(rng: random.Random, depth: int) -> Schema:
    least = rng.randint(0, 2)
    items = schema_of(rng, depth - 1)
    return {"type": "array", "items": items, "minItems": least, "maxItems": least + rng.randint(0, 2)}


def any_of(rng: random.Random, depth: int) -> Schema:
    return {"anyOf": [schema_of(rng, depth - 1) for _ in range(rng.randint(1, 3))]}


FLAT = (integer, number, string, fixed, formatted)
NESTED = (an_object, an_object, array, any_of)


def schema_of(rng: random.Random, depth: int = 3) -> Schema:
    """A schema whose texts are short: what may grow has a bound."""
    return rng.choice(FLAT + NESTED if depth else FLAT)(rng, depth)


@pytest.mark.parametrize("seed", range(NUM_SCHEMAS))
def test_a_text_of_a_random_schema_is_valid(seed: int) -> None:
    rng = random.Random(seed)
    schema = schema_of(rng)
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_pattern": r"[ \n]{0,2}"})
    guide, token_ids = guides().guide(grammar), list[int]()
    while not token_ids or token_ids[-1] != EOS_ID:
        choices = sorted(allowed(guide))
        assert choices, guide.problem
        token_ids.append(EOS_ID if EOS_ID in choices else rng.choice(choices))
        guide.accept(token_ids[-1])
        assert len(token_ids) < MOST_TOKENS, schema
    value = json.loads(tokenizer().decode(token_ids[:-1]))
    jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker())
