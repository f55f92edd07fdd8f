"""Whatever an edge writes into a request: what reads it says what is wrong."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edge.harness import mutations
from enclave.strong_folder import write_folder
from enclave.templates import QWEN3
from narrows.audit.scorer import RuntimeScorer
from narrows.coding.markup import CallForm
from narrows.coding.spec import answer_spec, strong_prompt
from narrows.enclave.parameters import UpstreamParameters
from narrows.enclave.tokens.backend import _couples, _unfit
from narrows.enclave.tokens.probe import Capability
from narrows.enclave.tokens.strong import StrongText
from narrows.errors import InputError, LinkError, NarrowsError
from narrows.models.bytemodel import ByteModel
from narrows.models.registry import load_model
from narrows.models.text.served import served_tools
from narrows.wire.media import check_parts
from narrows.wire.messages import Request

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
GOOD: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "content": "y", "reasoning_content": "z", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "r"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {}}}],
    "tool_choice": "auto",
    "response_format": {"type": "json_object"},
    "temperature": 0.5,
    "stop": ["a"],
    "max_tokens": 10,
    "markup": 1,
    "reasoning": "keep",
    "top_k": 4,
    "logit_bias": {"1": 2},
    "chat_template_kwargs": {"enable_thinking": True, "x": 1},
    "reasoning_effort": "low",
    "stop_token_ids": [1],
}
JUNK: list[object] = [
    *(1 << 70, 1e308, "\ud800", "<think>", "tool", "assistant"),
    *({"\ud800": 1}, {"type": []}, [{"function": {"name": "a", "arguments": "[1]"}}]),
]
VERDICT = Capability(True, True, "", 100, tools=True, formats=True)


def of_a_server(strong: StrongText, body: Mapping[str, Any]) -> None:
    sent = UpstreamParameters("vllm", images=True).applied(body)
    strong.prompt(sent)
    _unfit(sent, strong.markup(sent), CallForm.HERMES, VERDICT)
    _couples(sent, VERDICT.family)


def test_what_reads_a_body_refuses_it_in_words(tmp_path: Path) -> None:
    strong = StrongText(write_folder(tmp_path / "strong", template=QWEN3))
    weak, builtin = ByteModel(), load_model("default")
    scorer = RuntimeScorer(builtin)
    readers: tuple[Callable[[dict[str, Any]], object], ...] = (
        lambda body: check_parts(body.get("messages") or (), False),
        lambda body: strong_prompt(builtin, body),
        lambda body: UpstreamParameters("llama.cpp").applied(body),
    )
    others: tuple[Callable[[dict[str, Any]], object], ...] = (
        lambda body: of_a_server(strong, body),
        lambda body: scorer.prompt({name: body[name] for name in body if name == "messages"}),
        lambda body: strong.prompt(body),
    )
    read = 0
    for made in mutations(GOOD, JUNK, 600):
        if not isinstance(made, dict):
            continue
        body: dict[str, Any] = json.loads(json.dumps(made))
        wanted = readers
        with contextlib.suppress(NarrowsError):
            answer_spec(Request("00" * 16, body, "22" * 32), weak)
            wanted = (*readers, *others)
            read += 1
        for reader in wanted:
            with contextlib.suppress(NarrowsError):
                reader(body)
    assert read > 50


def test_what_is_no_list_is_said_so() -> None:
    for what in (5, True, "tools", {"a": 1}):
        with pytest.raises(InputError, match="tools is no list"):
            served_tools(what)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="messages is no list"):
            check_parts(what, True)
    for content in (5, {"type": "image_url", "image_url": {"url": "http://inside/"}}):
        with pytest.raises(InputError, match="neither text nor parts"):
            check_parts([{"role": "user", "content": content}], True)


def test_a_scope_is_no_negative_number() -> None:
    """The model refuses it, amid a step of the codec that all links share."""
    with pytest.raises(LinkError, match="scope -1"):
        answer_spec(Request("00" * 16, {"messages": []}, "22" * 32, -1), ByteModel())
