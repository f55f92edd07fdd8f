"""A sandbox for chat templates: they come with a checkpoint, so someone else wrote them.

It has what transformers gives its templates (loop controls, ``raise_exception``, ``tojson``,
``strftime_now``, ``generation`` blocks, the methods of text). Beside Jinja's own sandbox (no
attribute that starts with an underscore, nothing mutable) every way that makes a text or a list
larger is measured *before* it happens: a template of a few bytes must not make gigabytes.
Nothing is folded at compile time, since the compiler would do it without these checks. Loops
are bounded by Jinja's range limit and by ``MAX_CHARACTERS`` of output; how long a template may
compute is not bounded, so an artifact is still something that an operator vouches for.
"""

from __future__ import annotations

from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from narrows.models.text.template_text import (
    MAX_CHARACTERS,
    METHODS,
    call_text_method,
    check_size,
    check_width,
    percent,
    replace,
    strftime_now,
    to_json,
)

__all__ = ["MAX_CHARACTERS", "TemplateSandbox"]

_NO_FILTERS = ("batch", "pprint", "slice", "urlize")
_NO_BYTES = ("encode", "to_bytes", "from_bytes")  # nothing measures bytes, so there are none
_JOINED = "narrows_joined"


def bounded_text(value: Any) -> str:
    """``str(value)`` where it is short; a container as JSON, which is measured as it grows."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list | tuple):
        return to_json(value)
    return str(value)


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


class _Joins(NodeTransformer):
    """``a ~ b`` becomes a call that measures; the compiler would emit a plain join."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        name = nodes.Name(_JOINED, "load", lineno=node.lineno)
        return nodes.Call(name, node.nodes, [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """``{% generation %}`` marks what an assistant wrote; it changes no text."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own attribute

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The environment that chat templates are compiled and rendered in."""

    intercepted_binops = frozenset(["*", "**", "%", "+"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            optimized=False,
            finalize=bounded_text,
        )
        for name in _NO_FILTERS:
            self.filters.pop(name, None)
        self.filters |= {"tojson": to_json, "string": bounded_text, "join": _join}
        self.filters |= {"replace": _replace, "format": _format, "indent": _indent}
        self.filters |= {"center": _center, "wordwrap": _wordwrap(self.filters["wordwrap"])}
        self.filters["sum"] = _sum(self.filters["sum"])
        self.globals.pop("lipsum", None)
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": strftime_now}
        self.globals[_JOINED] = lambda *parts: _concat([bounded_text(part) for part in parts])

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        made: nodes.Template = _Joins().visit(source)
        return super()._generate(made, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int | float) and isinstance(right, int | float):
            if max(abs(left), abs(right)) > 1 << 62:
                raise SecurityError("a template computes too large numbers")
            if operator == "**" and not (abs(left) <= 1 << 16 and abs(right) <= 64):
                raise SecurityError("a template computes too large numbers")
        elif operator == "+":
            check_size(_length(left) + _length(right))
        elif operator == "%" and isinstance(left, str):
            return percent(left, right)
        elif operator == "*":
            _check_repeated(left, right)
        else:
            raise SecurityError(f"templates may use {operator} on numbers only")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Any:
        """Text methods found as attributes stay as they are: ``call`` measures them."""
        return None

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str | int | type) and name in _NO_BYTES:
            raise SecurityError("templates make no bytes")
        if isinstance(owner, bytes | bytearray):
            raise SecurityError("templates may not work on bytes")
        if isinstance(owner, str):
            if name in METHODS:
                return call_text_method(__self, owner, name, args, kwargs)
            if name == "join":
                return _join(list(*args), owner)
        return super().call(__context, __obj, *args, **kwargs)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 32


def _check_repeated(left: Any, right: Any) -> None:
    whole, times = (right, left) if isinstance(left, int) else (left, right)
    if not isinstance(times, int) or not isinstance(whole, str | list | tuple):
        raise SecurityError("templates may use * on numbers, and on text with a number")
    check_size(len(whole) * max(0, times))


def _concat(parts: list[str]) -> str:
    check_size(sum(map(len, parts)))
    return "".join(parts)


def _join(value: Any, d: str = "", attribute: Any = None) -> str:
    items = list(value)
    if attribute is not None:
        items = [item.get(attribute, "") for item in items if isinstance(item, dict)]
    texts = [bounded_text(item) for item in items]
    check_size(sum(map(len, texts)) + len(texts) * len(d))
    return d.join(texts)


def _replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    return replace(bounded_text(text), old, new, count)


def _format(text: Any, *args: Any, **kwargs: Any) -> str:
    return percent(bounded_text(text), kwargs or args)


def _center(text: Any, width: int = 80) -> str:
    check_width(width)
    return bounded_text(text).center(width)


def _indent(text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Jinja's ``indent``, measured."""
    whole = bounded_text(text)
    if isinstance(width, int):
        check_width(width)
    space = width if isinstance(width, str) else " " * width
    lines = (whole + "\n").splitlines()
    check_size(len(whole) + len(lines) * (len(space) + 1))
    rest = [space + line if line or blank else line for line in lines[1:]]
    return "\n".join([(space if first else "") + lines[0], *rest])


def _wordwrap(wrap: Any) -> Any:
    @jinja2.pass_environment
    def measured(environment: jinja2.Environment, text: Any, *args: Any, **kwargs: Any) -> str:
        mark = kwargs.get("wrapstring") or (args[2] if len(args) > 2 else None) or ""
        whole = bounded_text(text)
        check_size(len(whole) * (1 + len(mark)))
        return str(wrap(environment, whole, *args, **kwargs))

    return measured


def _sum(add: Any) -> Any:
    @jinja2.pass_environment
    def numbers(
        environment: jinja2.Environment, values: Any, attribute: Any = None, start: Any = 0
    ) -> Any:
        if not isinstance(start, int | float):
            raise SecurityError("templates may sum numbers only")
        return add(environment, values, attribute, start)

    return numbers
