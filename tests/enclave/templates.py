"""Chat templates with the forms of the common ones, short and of our own."""

from __future__ import annotations

import base64
import json
from typing import Any

_HEAD = (
    "{% if tools %}{{ '<|im_start|>system\n' }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}"
    "{{ 'You may call:' }}{% for tool in tools %}{{ '\n' }}{{ tool | tojson }}{% endfor %}"
    '{{ \'\nTo call one, write <tool_call>\n{"name": NAME, "arguments": OBJECT}\n</tool_call>\' }}'
    "{{ '<|im_end|>\n' }}"
    "{% elif messages[0].role == 'system' %}"
    "{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{% endif %}"
)
_TURNS = (
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}"
    "{{ '<|im_start|>user\n<tool_response>\n' + message.content }}"
    "{{ '\n</tool_response><|im_end|>\n' }}"
    "{% elif message.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}THOUGHT"
    "{{ message.content }}"
    "{% for call in message.tool_calls or [] %}"
    '{{ \'\n<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson }}{{ '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% elif message.role == 'user' or not loop.first %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}FRONT{% endif %}"
)
_THOUGHT = (
    "{% if message.reasoning_content is string and message.reasoning_content %}"
    "{{ '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}{% endif %}"
)
_OFF = (
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)
HERMES = _HEAD + _TURNS.replace("THOUGHT", "").replace("FRONT", "")
QWEN3 = _HEAD + _TURNS.replace("THOUGHT", _THOUGHT).replace("FRONT", _OFF)
BEGUN = _HEAD + _TURNS.replace("THOUGHT", _THOUGHT).replace("FRONT", "{{ '<think>\n' }}")
LLAMA3 = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ '<|im_start|>system\nToday: ' + date_string + '\n' }}"
    "{% if messages[0].role == 'system' %}{% set said = messages[0].content %}"
    "{% set messages = messages[1:] %}{% else %}{% set said = '' %}{% endif %}"
    "{% if tools %}{{ 'You may call:\n' }}{% for tool in tools %}{{ tool | tojson(indent=4) }}"
    "{{ '\n\n' }}{% endfor %}{% endif %}{{ said + '<|im_end|>' }}"
    "{% for message in messages %}"
    "{% if message.tool_calls %}"
    "{% if message.tool_calls | length != 1 %}{{ raise_exception('one call at once') }}{% endif %}"
    "{% set called = message.tool_calls[0].function %}"
    '{{ \'<|im_start|>assistant\n\n{"name": "\' + called.name + \'", "parameters": \' }}'
    "{{ called.arguments | tojson }}{{ '}<|im_end|>' }}"
    "{% elif message.role in ('tool', 'ipython') %}{{ '<|im_start|>ipython\n\n' }}"
    "{{ message.content | tojson }}{{ '<|im_end|>' }}"
    "{% else %}{{ '<|im_start|>' + message.role + '\n\n' + message.content + '<|im_end|>' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
OTHER_FORM = HERMES.replace('<tool_call>\n{"name": "\' +', "<tool_call>\n<function=\"' +")


def scripted(text: str, deltas: list[dict[str, Any]] | None = None) -> str:
    """A user's message that makes the fake server answer ``text``, and ``deltas`` on its chat."""
    packed = base64.b64encode(json.dumps([text, deltas or [{"content": "as text"}]]).encode())
    return "[[" + packed.decode() + "]]"
