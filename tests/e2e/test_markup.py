"""Tools and reasoning through real processes: as token ids they are what they are as text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.chain import Chain
from enclave.strong_folder import seen, serving, write_folder
from enclave.templates import LLAMA3, QWEN3, scripted
from models.models import artifact_path

TOOLS = [
    {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
    }
]
ARGS = '{"a": [1, "żó"]}'
ANSWERS = {
    QWEN3: [
        (
            '<think>\nhm\n</think>\n\nSo:\n<tool_call>\n{"name": "add", "arguments": '
            + ARGS
            + "}\n</tool_call>\n<tool_call>\n"
            + '{"name": "add", "arguments": {}}\n</tool_call>',
            [
                {"reasoning": "\nhm\n"},
                {"content": "\n\nSo:\n"},
                {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "add"}}]},
                {"tool_calls": [{"index": 0, "function": {"arguments": ARGS}}]},
                {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "add"}}]},
                {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
            ],
        ),
        (
            "<think>so</think>\n\n<tool_call>\nno call\n</tool_call> it <is>",
            [
                {"reasoning": "so"},
                {"content": "\n\n<tool_call>\nno call\n</tool_call> it <is>"},
            ],
        ),
        ("no marker", [{"content": "no marker"}]),
    ],
    LLAMA3: [
        (
            '{"name": "add", "parameters": ' + ARGS + "}",
            [
                {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "add"}}]},
                {"tool_calls": [{"index": 0, "function": {"arguments": ARGS}}]},
            ],
        ),
        ('{"no": "call"}', [{"content": '{"no": "call"}'}]),
    ],
}


def whole(chain: Chain, **request: Any) -> dict[str, Any]:
    answer = chain.client().chat.completions.create(**request)
    (choice,) = answer.choices
    calls = [(one.function.name, one.function.arguments) for one in choice.message.tool_calls or []]
    return {
        "content": choice.message.content,
        "reasoning": getattr(choice.message, "reasoning_content", None),
        "calls": calls,
        "finish": choice.finish_reason,
    }


def streamed(chain: Chain, **request: Any) -> dict[str, Any]:
    content, reasoning, finish = "", "", None
    calls: list[tuple[str, str]] = []
    for chunk in chain.client().chat.completions.create(stream=True, **request):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            finish = choice.finish_reason or finish
            for one in choice.delta.tool_calls or []:
                if one.id:
                    calls.append((one.function.name, ""))
                name, arguments = calls[one.index]
                calls[one.index] = (name, arguments + (one.function.arguments or ""))
    return {
        "content": content or None,
        "reasoning": reasoning or None,
        "calls": calls,
        "finish": finish,
    }


@pytest.mark.parametrize(
    "template", [QWEN3, pytest.param(LLAMA3, marks=pytest.mark.torture)], ids=["qwen3", "llama3"]
)
def test_as_ids_an_answer_is_what_it_is_as_text(
    chains: Callable[..., Chain], tmp_path: Path, template: str
) -> None:
    folder = write_folder(tmp_path / "strong", template=template)
    with serving(folder) as url:
        upstream = {"folder": folder, "tokens": "required"}
        chain = chains(strong=url, weak=str(artifact_path("llama")), upstream=upstream).start()
        for text, deltas in ANSWERS[template]:
            request = {
                "model": "smollm2-135m-instruct",
                "messages": [{"role": "user", "content": scripted(text, deltas)}],
                "tools": TOOLS,
                "max_tokens": 1000,
            }
            as_ids = whole(chain, **request)
            assert seen(url)[-1]["path"] == "completions"
            # One call at a time is the server's parser's business.
            as_text = whole(chain, parallel_tool_calls=False, **request)
            assert seen(url)[-1]["path"] == "chat"
            assert as_ids == as_text
            assert streamed(chain, **request) == as_ids
        chain.assert_paid()
