"""Tool calls as model servers stream them, put together before they are passed on.

A fragment belongs to the call with its id; without an id to the last one of its index; without
either to the last one. An id that is new is a new call, whatever its index says. The first call
goes on as it comes, from when its name is whole (its arguments have begun); later calls are held
to the end, since fragments of different calls may alternate and the link carries one after the
other. What fits no call, or leaves one without a name, is ``Malformed``: nothing is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from narrows.enclave.sse import Malformed

MAX_CALLS = 128  # what an edge takes
MAX_NAME_CHARS = 256


@dataclass(slots=True)
class _Call:
    index: int | None
    id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    whole: bool = False  # the arguments are an object, and it is closed
    depth: int = 0
    quoted: bool = False
    escaped: bool = False

    def add(self, text: str) -> None:
        """More arguments. ``Malformed`` where a second object begins behind the first."""
        for char in text:
            if self.escaped:
                self.escaped = False
            elif self.quoted:
                self.escaped = char == "\\"
                self.quoted = char != '"'
            elif char == '"':
                self.quoted = True
            elif char == "{":
                if self.whole:
                    raise Malformed("a tool call with two objects of arguments")
                self.depth += 1
            elif char == "}":
                self.depth -= 1
                self.whole = self.whole or self.depth == 0
        self.arguments.append(text)


class Begun(str):
    """A call begins; this is its name."""


class ToolCalls:
    """``add`` and ``finish`` give what to pass on: ``Begun``, then parts of its arguments.
    ``max_bytes``: of all calls together, in characters of four bytes at most."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._calls: list[_Call] = []
        self._live = False  # the first call's name has been passed on

    def add(self, fragment: object) -> list[str]:
        """One entry of ``delta.tool_calls``."""
        if not isinstance(fragment, dict):
            raise Malformed("a tool call is not an object")
        function = fragment.get("function") or {}
        if not isinstance(function, dict) or fragment.get("type") not in (None, "", "function"):
            raise Malformed("a tool call of no function")
        name = _text(function.get("name"), "name")
        arguments = _text(function.get("arguments"), "arguments")
        call = self._call_of(fragment, name, arguments)
        self._name(call, name, arguments)
        if arguments:
            self._left -= len(arguments)
            if self._left < 0:
                raise Malformed("the answer is longer than the limit")
            call.add(arguments)
        if call is not self._calls[0] or not arguments or not call.name:
            return []
        if self._live:
            return [arguments]
        self._live = True
        return [Begun(call.name), *call.arguments]

    @property
    def is_open(self) -> bool:
        """Whether more arguments of the call that was passed on may come."""
        return self._live and not self._calls[0].whole

    def finish(self) -> list[str]:
        """All that was held."""
        if not all(call.name for call in self._calls):
            raise Malformed("a tool call without a name")
        parts: list[str] = []
        for call in self._calls[int(self._live) :]:
            parts += [Begun(call.name), *call.arguments]
        return parts

    def _call_of(self, fragment: dict[str, Any], name: str, arguments: str) -> _Call:
        index = fragment.get("index")
        if index is not None and (type(index) is not int or index < 0):
            raise Malformed("a tool call's index is no number")
        identity = _text(fragment.get("id"), "id")
        at_index = [call for call in self._calls if index is None or call.index in (index, None)]
        last = at_index[-1] if at_index else None
        if identity:
            for call in reversed(at_index):
                if call.id == identity:
                    return call
            if last is not None and not last.id:
                last.id = identity
                return last
        elif last is not None and not (name and last.whole):
            return last  # else another call of a server without ids
        if len(self._calls) >= MAX_CALLS:
            raise Malformed(f"more than {MAX_CALLS} tool calls")
        self._calls.append(_Call(index, identity))
        return self._calls[-1]

    def _name(self, call: _Call, name: str, arguments: str) -> None:
        if name and name == call.name and (arguments or call.arguments):
            return  # said again with each fragment
        if name and call.arguments and call.name:
            raise Malformed("a tool call changes its name")
        call.name += name
        if len(call.name) > MAX_NAME_CHARS:
            raise Malformed("a tool call with too long a name")


def _text(value: object, what: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"a tool call's {what} is not a string")
    return value
