"""How a model writes calls of tools and reasoning, read off what its own template writes.

A template is asked, not searched: it renders a conversation in which a tool was called. So a form
is found only where earlier calls, their results and the tools themselves reach the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from narrows.coding.markup import THINK, THOUGHT, CallForm, ReasoningForm
from narrows.errors import ArtifactError, InputError
from narrows.models.text.chat import ChatRenderer
from narrows.models.text.served import served_messages, served_tools
from narrows.models.text.tokenizer import BpeTokenizer

_NAME, _ARGUMENTS, _RESULT = "narrows_add", {"left": 20, "right": "twenty-two"}, "forty-two"
_PARAMETERS = {"type": "object", "properties": {"left": {"type": "integer"}}}
_PURPOSE = "Adds two numbers."
SAMPLE_TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {"name": _NAME, "description": _PURPOSE, "parameters": _PARAMETERS},
    },
    {"type": "function", "function": {"name": "narrows_bare"}},
]
SAMPLE_CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How much is it?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call00001",
                "type": "function",
                "function": {"name": _NAME, "arguments": json.dumps(_ARGUMENTS)},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call00001", "content": _RESULT},
    {"role": "assistant", "content": "It is that."},
    {"role": "user", "content": "Thanks."},
]
_HERMES = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


def sample_prompt(chat: ChatRenderer) -> list[int]:
    """The prompt of ``SAMPLE_CHAT``. InputError, ArtifactError: the template does not take it."""
    return chat.render(served_messages(SAMPLE_CHAT), tools=served_tools(SAMPLE_TOOLS))


def call_form(chat: ChatRenderer, tokenizer: BpeTokenizer) -> CallForm:
    """How the template writes a call; NONE where it is none of the known forms."""
    try:
        text = text_of(tokenizer, sample_prompt(chat))
    except (InputError, ArtifactError):
        return CallForm.NONE
    if _PURPOSE not in text or _RESULT not in text:
        return CallForm.NONE
    called = {"name": _NAME, "arguments": _ARGUMENTS}
    if any(_json(found[1]) == called for found in _HERMES.finditer(text)):
        return CallForm.HERMES
    called = {"name": _NAME, "parameters": _ARGUMENTS}
    return CallForm.LLAMA3 if called in _objects(text) else CallForm.NONE


def reasoning_form(
    chat: ChatRenderer, tokenizer: BpeTokenizer, variables: Mapping[str, Any]
) -> ReasoningForm:
    """How an answer of a model that reasons between markers begins: what the template puts in
    front of it opens the reasoning, closes it, or leaves it open. InputError, ArtifactError: the
    template refuses the ``variables``."""
    asked = [{"role": "user", "content": "Hello."}]
    before = chat.render(asked, variables=variables, answer=False)
    whole = chat.render(asked, variables=variables)
    same = whole[: len(before)] == before
    front = text_of(tokenizer, whole[len(before) :] if same else whole)
    opened, closed = front.rfind(THINK), front.rfind(THOUGHT)
    if opened > closed:
        return ReasoningForm.BEGUN
    return ReasoningForm.NONE if closed >= 0 else ReasoningForm.MARKED


def text_of(tokenizer: BpeTokenizer, ids: list[int]) -> str:
    """The text of ``ids``, control tokens included."""
    return b"".join(map(tokenizer.token_bytes, ids)).decode("utf-8", "replace")


def _objects(text: str) -> Iterator[object]:
    decoder = json.JSONDecoder()
    for found in re.finditer(r"\{", text):
        try:
            yield decoder.raw_decode(text, found.start())[0]
        except (ValueError, RecursionError):
            continue


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
