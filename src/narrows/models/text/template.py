"""A sandbox for chat templates: they come with a checkpoint, so someone else wrote them.

Beside Jinja's own sandbox (no attribute that starts with an underscore, nothing mutable) every
way that makes a text or a list larger is measured *before* it happens, and what only pads is
not there: a template of a few bytes must not make gigabytes. Nothing is folded at compile time,
since the compiler would do it without these checks. Loops are bounded by Jinja's range limit
and by ``MAX_CHARACTERS`` of output; how long a template may compute is not bounded, so an
artifact is still something that an operator vouches for.
"""

from __future__ import annotations

import json
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_CHARACTERS = 1 << 24
_NO_FILTERS = ("batch", "center", "format", "indent", "pprint", "slice", "urlize", "wordwrap")
_NO_METHODS = frozenset(
    ["center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map", "translate"]
)
_JOINED = "narrows_joined"


def bounded_text(value: Any) -> str:
    """``str(value)`` where it is short; a container as JSON, which is measured as it grows."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list | tuple):
        return to_json(value)
    return str(value)


def to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    """JSON of at most ``MAX_CHARACTERS``. Raises SecurityError beyond."""
    if indent is not None and not 0 <= indent <= 16:
        raise SecurityError("a template indents too far")
    parts: list[str] = []
    size = 0
    for part in json.JSONEncoder(ensure_ascii=False, indent=indent).iterencode(value):
        size += len(part)
        parts.append(part)
        _check(size + 16 * len(parts))
    return "".join(parts)


class _Joins(NodeTransformer):
    """``a ~ b`` becomes a call that measures; the compiler would emit a plain join."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        name = nodes.Name(_JOINED, "load", lineno=node.lineno)
        return nodes.Call(name, node.nodes, [], None, None, lineno=node.lineno)


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The environment that chat templates are compiled and rendered in."""

    intercepted_binops = frozenset(["*", "**", "%", "+"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols"],
            optimized=False,
            finalize=bounded_text,
        )
        for name in _NO_FILTERS:
            self.filters.pop(name, None)
        self.filters |= {"tojson": to_json, "string": bounded_text, "join": _join}
        self.filters["replace"] = _replace
        self.globals.pop("lipsum", None)
        self.globals[_JOINED] = lambda *parts: _concat([bounded_text(part) for part in parts])

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        made: nodes.Template = _Joins().visit(source)
        return super()._generate(made, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int | float) and isinstance(right, int | float):
            if operator == "**" or max(abs(left), abs(right)) > 1 << 62:
                raise SecurityError("a template computes too large numbers")
        elif operator == "+":
            _check(_length(left) + _length(right))
        else:
            raise SecurityError(f"templates may use {operator} on numbers only")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Any:
        if isinstance(getattr(value, "__self__", None), str) and value.__name__ in _NO_METHODS:
            raise SecurityError(f"templates may not use {value.__name__}")
        return super().wrap_str_format(value)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            if name in _NO_METHODS:
                raise SecurityError(f"templates may not call {name}")
            if name == "replace" and args:
                return _replace(owner, *args)
            if name == "join":
                return _join(list(*args), owner)
        return super().call(__context, __obj, *args, **kwargs)


def _check(size: int) -> None:
    if size > MAX_CHARACTERS:
        raise SecurityError("a template makes too much text")


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 32


def _concat(parts: list[str]) -> str:
    _check(sum(map(len, parts)))
    return "".join(parts)


def _join(value: Any, d: str = "", attribute: Any = None) -> str:
    items = list(value)
    if attribute is not None:
        items = [item.get(attribute, "") for item in items if isinstance(item, dict)]
    texts = [bounded_text(item) for item in items]
    _check(sum(map(len, texts)) + len(texts) * len(d))
    return d.join(texts)


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    whole = bounded_text(text)
    found = whole.count(old) if count is None or count < 0 else min(count, whole.count(old))
    _check(len(whole) + found * len(new))
    return whole.replace(old, new, -1 if count is None else count)
