"""Twenty JSON schemas, and whether a value is of one, as it is read here."""

from __future__ import annotations

import re
from typing import Any

WORD = {"type": "string", "minLength": 1, "maxLength": 12}
SMALL = {"type": "integer", "minimum": 0, "maximum": 100}


def record(**fields: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


def some(items: Any, least: int = 0, most: int = 3) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


SCHEMAS: list[dict[str, Any]] = [
    record(name=WORD, age=SMALL),
    record(answer={"type": "boolean"}),
    record(tags=some(WORD, 1)),
    record(kind={"enum": ["cat", "dog", "bird"]}, count=SMALL),
    record(person=record(first=WORD, last=WORD), ok={"type": "boolean"}),
    record(points=some(record(x=SMALL, y=SMALL), 2)),
    record(value={"anyOf": [WORD, SMALL, {"type": "null"}]}),
    record(code={"type": "string", "pattern": "^[A-Z]{2}[0-9]{4}$"}),
    record(day={"type": "string", "pattern": r"^20\d\d-(0[1-9]|1[0-2])-([0-2][0-9])$"}),
    {"type": "array", "items": SMALL, "minItems": 3, "maxItems": 3},
    {"enum": ["yes", "no", "maybe"]},
    {"type": "object", "properties": {"a": WORD, "b": SMALL}, "required": ["b"],
     "additionalProperties": False},
    record(version={"const": 2}, text=WORD),
    {"$defs": {"leaf": record(v=SMALL)}, **record(left={"$ref": "#/$defs/leaf"},
                                                  right={"$ref": "#/$defs/leaf"})},
    record(tool={"enum": ["search", "open"]}, arguments=record(query=WORD)),
    record(rating={"type": "integer", "minimum": 1, "maximum": 5}, why=WORD),
    {"anyOf": [record(error=WORD), record(result=SMALL)]},
    record(matrix=some(some(SMALL, 2, 2), 2, 2)),
    record(nested=record(deep=record(deeper=record(end={"type": "boolean"})))),
    record(**{'quote"d': WORD, "ünïcode": WORD, "space d": {"type": "null"}}),
]  # fmt: skip

_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "null": type(None),
}


def holds(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None) -> bool:
    """Whether ``value`` is of ``schema``; of the words that are above."""
    root = root or schema
    if "$ref" in schema:
        return holds(value, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root)
    if "anyOf" in schema:
        return any(holds(value, one, root) for one in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    if "const" in schema:
        return bool(value == schema["const"])
    kind = schema["type"]
    if not isinstance(value, _TYPES[kind]) or (kind == "integer" and isinstance(value, bool)):
        return False
    if kind == "integer":
        return schema["minimum"] <= value <= schema["maximum"]
    if kind == "string":
        size = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 1 << 20)
        return size and re.search(schema.get("pattern", ""), value) is not None
    if kind == "array":
        size = schema["minItems"] <= len(value) <= schema["maxItems"]
        return size and all(holds(one, schema["items"], root) for one in value)
    if kind == "object":
        fields = schema["properties"]
        named = set(schema["required"]) <= value.keys() <= fields.keys()
        return named and all(holds(value[name], fields[name], root) for name in value)
    return True
