"""What coding agents send, rebuilt: Claude Code's Messages and Codex's Responses, streamed, with
long system prompts, tools and what came of them. Field for field as their requests have them; the
words are ours."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge.harness import MODEL, Rig
from narrows.coding.events import Channel, Coding, Finish, Finished, Opened, Switch, Text

LONG = "You are an agent that edits files. " * 1000
COMMAND = '{"command":"ls -la","description":"List files"}'
CACHED = {"cache_control": {"type": "ephemeral"}}
BASH = {
    "type": "object",
    "properties": {
        "command": {"type": "string", "description": "The command to execute"},
        "timeout": {"type": "number"},
        "description": {"type": "string"},
        "run_in_background": {"type": "boolean"},
    },
    "required": ["command"],
    "additionalProperties": False,
    "$schema": "http://json-schema.org/draft-07/schema#",
}


def works(request: object) -> list[object]:
    """Thinks, says something, calls a tool."""
    return [
        Opened(Coding.TEXT),
        Switch(Channel.REASONING),
        Text(b"First look."),
        Switch(Channel.CONTENT),
        Text(b"I look."),
        Switch(Channel.TOOL_NAME),
        Text(b"Bash"),
        Switch(Channel.TOOL_ARGUMENTS),
        Text(COMMAND.encode()),
        Finished(Finish.TOOL_CALLS),
    ]


@pytest.fixture
def rig(tmp_path):
    with Rig(tmp_path, aliases=("claude-sonnet-4-5-20250929", "gpt-5-codex")) as rig:
        rig.enclave.script = works
        yield rig


def events(reply: Any) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    lines = reply.text.splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def claude(messages: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "model": "claude-sonnet-4-5-20250929",
        "messages": messages,
        "system": [
            {"type": "text", "text": "You are a CLI agent."} | CACHED,
            {"type": "text", "text": LONG} | CACHED,
        ],
        "tools": [
            {"name": "Bash", "description": LONG, "input_schema": BASH},
            {"name": "TodoWrite", "description": "d", "input_schema": {"type": "object"}},
        ],
        "metadata": {"user_id": "user_0_account__session_0"},
        "max_tokens": 32000,
        "thinking": {"type": "enabled", "budget_tokens": 31999},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "stream": True,
    }


CLAUDE_HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
    "anthropic-dangerous-direct-browser-access": "true",
    "x-app": "cli",
    "x-api-key": "none",
    "x-stainless-helper-method": "stream",
    "user-agent": "claude-cli/2.0.0 (external, cli)",
}


def test_claude_codes_turns(rig: Rig) -> None:
    asked = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>\nNote.\n</system-reminder>\n"},
                {"type": "text", "text": "List the files."} | CACHED,
            ],
        }
    ]
    path = "/v1/messages?beta=true"
    found = events(rig.post(claude(asked), path, headers=CLAUDE_HEADERS))
    kinds = [one["content_block"]["type"] for one in found if "content_block" in one]
    assert kinds == ["thinking", "text", "tool_use"]
    deltas = [one["delta"] for one in found if one["type"] == "content_block_delta"]
    written = "".join(one.get("partial_json", "") for one in deltas)
    assert json.loads(written) == json.loads(COMMAND)
    signatures = [one["signature"] for one in deltas if one["type"] == "signature_delta"]
    (ended,) = [one["delta"] for one in found if one["type"] == "message_delta"]
    assert ended["stop_reason"] == "tool_use"
    (use,) = [one["content_block"] for one in found if "content_block" in one][2:]
    asked += [
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "First look.", "signature": signatures[0]},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": use["id"], "name": "Bash", "input": json.loads(COMMAND)},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "tool_use_id": use["id"],
                    "type": "tool_result",
                    "content": "a.py\nb.py",
                    "is_error": False,
                }
                | CACHED
            ],
        },
    ]
    assert (
        events(rig.post(claude(asked), path, headers=CLAUDE_HEADERS))[-1]["type"] == "message_stop"
    )
    body = rig.enclave.requests[-1].body
    assert [one["role"] for one in body["messages"]] == ["system", "user", "assistant", "tool"]
    assert LONG in body["messages"][0]["content"]
    assert body["messages"][2]["reasoning_content"] == "First look."
    assert body["messages"][3] == {
        "role": "tool", "tool_call_id": use["id"], "content": "a.py\nb.py"
    }  # fmt: skip
    assert body["tools"][0]["function"]["parameters"] == BASH
    assert body["max_tokens"] == 32000
    counted = {name: claude(asked)[name] for name in ("model", "messages", "system", "tools")}
    reply = rig.post(counted, "/v1/messages/count_tokens?beta=true", headers=CLAUDE_HEADERS)
    assert reply.json()["input_tokens"] > 1000


def codex(items: list[dict[str, Any]]) -> dict[str, Any]:
    shell = {
        "type": "object",
        "properties": {
            "command": {"type": "string"},
            "workdir": {"type": "string"},
            "timeout_ms": {"type": "number"},
        },
        "required": ["command"],
        "additionalProperties": False,
    }
    return {
        "model": "gpt-5-codex",
        "instructions": LONG,
        "input": items,
        "tools": [
            {"type": "function", "name": "Bash", "description": "Runs a command.",
             "strict": False, "parameters": shell},
            {"type": "function", "name": "update_plan", "description": "Updates the plan.",
             "strict": False, "parameters": {"type": "object", "properties": {}}},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199-session",
        "text": {"verbosity": "medium"},
        "client_metadata": {"x-codex-installation-id": "0"},
    }  # fmt: skip


def said(role: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def test_codexs_turns(rig: Rig) -> None:
    items = [
        said("developer", "<permissions>read-only</permissions>"),
        said("user", "<environment_context>\n<cwd>/x</cwd>\n</environment_context>"),
        said("user", "List the files."),
    ]
    headers = {"originator": "codex_cli_rs", "session_id": "0199", "openai-beta": "responses=x",
               "authorization": "Bearer none", "accept": "text/event-stream"}  # fmt: skip
    found = events(rig.post(codex(items), "/v1/responses", headers=headers))
    assert [one["sequence_number"] for one in found] == list(range(len(found)))
    done = [one["item"] for one in found if one["type"] == "response.output_item.done"]
    assert [one["type"] for one in done] == ["reasoning", "message", "function_call"]
    assert json.loads(done[2]["arguments"]) == json.loads(COMMAND)
    assert found[-1]["type"] == "response.completed"
    # without a store the client hands all of it back
    again = [*items, *done]
    again.append(
        {"type": "function_call_output", "call_id": done[2]["call_id"], "output": "a.py\nb.py"}
    )
    assert events(rig.post(codex(again), "/v1/responses", headers=headers))[-1]["type"] == (
        "response.completed"
    )
    body = rig.enclave.requests[-1].body
    roles = [one["role"] for one in body["messages"]]
    assert roles == ["system", "developer", "user", "user", "assistant", "tool"]
    assistant = body["messages"][4]
    assert (assistant["reasoning_content"], assistant["content"]) == ("First look.", "I look.")
    assert assistant["tool_calls"][0]["id"] == done[2]["call_id"]
    assert (body["reasoning_effort"], body["parallel_tool_calls"]) == ("medium", False)
    assert found[-1]["response"]["model"] == MODEL
