"""Calls of tools by the built-in model: told by its own template, forced by the grammar library.

A template that writes no calls in a known form (``tokens/writing.py``) is of a model that cannot
call: then tools are refused. A call is forced where the request is promised something of it: that
there is one (``tool_choice``), one at most (``parallel_tool_calls``), or that its arguments are of
the schema (``strict``). Else the model writes as it does, and the edge reads what it wrote.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from narrows.coding.markup import CallForm, Markup, reads_markup
from narrows.coding.spec import wants_tools
from narrows.enclave.draw.forms import COMPACT, MAX_CHARS, MAX_VALUES
from narrows.enclave.parameters import forced_form
from narrows.enclave.tokens.writing import call_form
from narrows.errors import InputError
from narrows.models.api import TokenModel
from narrows.models.served import ServedModel
from narrows.models.text.served import served_tools
from narrows.wire.parameters import schema_wrong

_KEYS = {CallForm.HERMES: "arguments", CallForm.LLAMA3: "parameters"}
_OPENS, _CLOSES = "<tool_call>", "\n</tool_call>"


class ToolCalling:
    """Of one model. ``form``: how it writes calls; NONE where it cannot."""

    def __init__(self, model: TokenModel) -> None:
        self.form = CallForm.NONE
        if isinstance(model, ServedModel):
            self.form = call_form(model.chat, model.tokenizer)

    def markup(self, body: Mapping[str, Any]) -> Markup:
        """How the answer to ``body`` is written. InputError: tools that this model cannot call, or
        not for this edge."""
        if not wants_tools(body):
            return Markup()
        if self.form is CallForm.NONE:
            raise InputError("the built-in model's chat template knows no tools")
        if not reads_markup(body):
            raise InputError("tools, for an edge that takes no markup apart")
        return Markup(calls=self.form)

    def grammar(self, body: Mapping[str, Any]) -> str | None:
        """What the answer is forced into, as Lark; None where nothing is promised. InputError: it
        is malformed, too large, or beside another forced form."""
        if not wants_tools(body):
            return None
        if forced_form(body) is not None or body.get("response_format"):
            raise InputError("a forced format beside tools")
        tools = served_tools(body["tools"])
        choice = body.get("tool_choice") or "auto"
        if isinstance(choice, Mapping):
            (named,) = served_tools([choice])
            name = named["function"]["name"]
            tools = [tool for tool in tools if tool["function"]["name"] == name]
            if not tools:
                raise InputError("tool_choice names no tool")
        elif choice not in ("auto", "required"):
            raise InputError("tool_choice is none that is known here")
        must = choice != "auto"
        one = body.get("parallel_tool_calls") is False
        if not must and not one and not any(tool["function"].get("strict") for tool in tools):
            return None
        return self._lark(tools, must, one)

    def _lark(self, tools: Sequence[Mapping[str, Any]], must: bool, one: bool) -> str:
        rules = [self._rule(index, tool["function"]) for index, tool in enumerate(tools)]
        if sum(map(len, rules)) > MAX_CHARS:
            raise InputError(f"tools whose calls are forced have {MAX_CHARS} characters at most")
        calls = " | ".join(f"call_{index}" for index in range(len(rules)))
        head = ["%llguidance {}"]
        if self.form is CallForm.LLAMA3:
            head += [f"start: {calls}" if must else f"start: {calls} | OTHER"]
            head += [] if must else [r"OTHER: /([^{ \t\r\n](.|\n)*)?/"]
        elif must:
            head += [f"start: {json.dumps(_OPENS)} ({calls})"]
        else:
            head += ["start: TEXT | called" if one else "start: called* TEXT"]
            head += [f"called: opened ({calls})", f"opened[lazy]: TEXT {json.dumps(_OPENS)}"]
            head += [r"TEXT: /(.|\n)*/"]
        return "\n".join([*head, *rules]) + "\n"

    def _rule(self, index: int, function: Mapping[str, Any]) -> str:
        schema = function.get("parameters") or {}
        if found := schema_wrong(schema, MAX_CHARS, MAX_VALUES):
            raise InputError(f"a tool's parameters: a schema {found.what}")
        if not isinstance(schema, dict) or schema.get("type", "object") != "object":
            raise InputError("a tool's parameters are no object's")
        begin = f'{{"name": {json.dumps(function["name"])}, "{_KEYS[self.form]}": '
        end = "}"
        if self.form is CallForm.HERMES:
            begin, end = "\n" + begin, end + _CLOSES
        typed = json.dumps(schema | {"type": "object", "x-guidance": COMPACT})
        return f"call_{index}: {json.dumps(begin)} %json {typed} {json.dumps(end)}"
