"""From a request to the ``AnswerSpec`` that both coders must agree on.

Enclave and edge call ``answer_spec`` with the same request and the same weak model, so they
condition it on the same prompt. The strong model's own prompt handling is the backend's
business and need not look like this. docs/context.md specifies it for others.

Truncation rule: a rendered prompt longer than half the weak model's context keeps its last
``max_context // 2`` ids. A weak model without a chat template gets each message as
``role: text`` lines, and so does one whose template refuses the conversation (roles that must
alternate, no system turn): what the strong model may be asked is not the weak one's to decide.
Bytes of such lines that its vocabulary lacks are left out. All of this only costs bits when it
fits the strong model badly, never correctness.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from narrows.coding.events import AnswerSpec
from narrows.errors import ArtifactError, InputError, LinkError
from narrows.models.api import Tokenizer, TokenModel
from narrows.wire.messages import Request

MAX_ANSWER_TOKENS = 1 << 20
"""Also what a request without ``max_tokens`` may bring: the model server decides then."""

Q16 = 65536


@runtime_checkable
class ChatModel(Protocol):
    """A token model that knows its chat template."""

    def render_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]: ...


@runtime_checkable
class ToolModel(Protocol):
    """One whose template may be told of tools."""

    def render_tools(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> list[int]: ...


@runtime_checkable
class MarkedText(Protocol):
    """A tokenizer that knows control tokens by their text."""

    def encode_chat(self, text: str) -> list[int]: ...


def message_text(message: Mapping[str, Any]) -> str:
    """The text of a message's content: a string, or its text parts joined."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, Mapping))
    return ""


def render_prompt(model: TokenModel, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Weak-model ids of the prompt, cut to the last ``max_context // 2``; at least one id."""
    return whole_prompt(model, messages)[-(model.max_context // 2) :]


def raw_prompt(model: TokenModel, text: str) -> list[int]:
    """Weak-model ids of a prompt that is no conversation, cut as ``render_prompt``."""
    ids = _known_ids(model.tokenizer, text.encode("utf-8", "surrogatepass"))
    return ids[-(model.max_context // 2) :]


def wants_tools(body: Mapping[str, Any]) -> bool:
    """Whether the strong model is told of tools."""
    return bool(body.get("tools")) and body.get("tool_choice") != "none"


def strong_prompt(model: TokenModel, body: Mapping[str, Any]) -> list[int]:
    """What a strong model of ours reads before its answer: its chat template over all messages
    and tools, or ``prompt`` as it is, in which control tokens are what they are called.
    InputError."""
    text = body.get("prompt")
    if isinstance(text, str):
        tokenizer = model.tokenizer
        if isinstance(tokenizer, MarkedText):
            ids = tokenizer.encode_chat(text)
        else:
            ids = tokenizer.encode(text.encode("utf-8", "surrogatepass"))
        return ids or [min(tokenizer.eos_ids, default=0)]
    if not isinstance(model, ChatModel):
        raise InputError(f"{model.name} has no chat template")
    messages, tools = body.get("messages"), body.get("tools")
    if not isinstance(messages, list):
        raise InputError("a request without messages")
    if not wants_tools(body):
        return model.render_chat(messages)
    if not isinstance(tools, list) or not isinstance(model, ToolModel):
        raise InputError(f"{model.name} has no template for these tools")
    return model.render_tools(messages, tools)


def whole_prompt(model: TokenModel, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Weak-model ids of the prompt, however long."""
    ids: list[int] = []
    if isinstance(model, ChatModel):
        plain = [{"role": str(m.get("role", "user")), "content": message_text(m)} for m in messages]
        with contextlib.suppress(InputError, UnicodeError):
            ids = model.render_chat(plain)
    if not ids:
        lines = [f"{m.get('role', 'user')}: {message_text(m)}\n" for m in messages]
        text = "".join(lines) + "assistant: "
        ids = _known_ids(model.tokenizer, text.encode("utf-8", "surrogatepass"))
    return ids


def _known_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """Ids of ``data`` without the bytes that the vocabulary lacks."""
    try:
        return tokenizer.encode(data)
    except InputError:
        if len(data) <= 1:
            return []
        middle = len(data) // 2
        return _known_ids(tokenizer, data[:middle]) + _known_ids(tokenizer, data[middle:])


def fixed_q16(value: object, default: float, upper: float) -> int:
    """A request's float as Q16; both ends round alike since the same JSON is parsed."""
    number = default if value is None else value
    if not isinstance(number, int | float) or isinstance(number, bool) or not 0 <= number <= upper:
        raise InputError(f"{value!r} is outside 0..{upper:g}")
    return round(number * Q16)


def answer_spec(request: Request, model: TokenModel) -> AnswerSpec:
    """What both coders know of the answer. Raises LinkError where the request is malformed."""
    body = request.body
    messages, text = body.get("messages"), body.get("prompt")
    if text is not None:
        if not isinstance(text, str) or messages is not None:
            raise LinkError("a prompt that is no text, or beside messages")
    elif not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise LinkError("a request without messages")
    max_tokens = body.get("max_tokens", MAX_ANSWER_TOKENS)
    if not isinstance(max_tokens, int) or not 1 <= max_tokens <= MAX_ANSWER_TOKENS:
        raise LinkError(f"max_tokens {max_tokens!r} is outside 1..{MAX_ANSWER_TOKENS}")
    try:
        noise_key = bytes.fromhex(request.noise_key)
        temperature = fixed_q16(body.get("temperature"), 1.0, 2.0)
        top_p = fixed_q16(body.get("top_p"), 1.0, 1.0)
        read = render_prompt(model, messages or []) if text is None else raw_prompt(model, text)
        prompt = tuple(read)
    except (TypeError, ValueError, InputError, ArtifactError) as error:
        raise LinkError(f"malformed request: {error}") from error
    resume = tuple(request.resume)
    if not all(0 <= token < model.vocab_size for token in (*prompt, *resume)):
        raise LinkError("a prompt with tokens that the weak model does not have")
    if request.scope < 0:
        raise LinkError(f"scope {request.scope} is negative")
    if len(noise_key) != 32:
        raise LinkError("noise_key must be 32 bytes")
    return AnswerSpec(
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        noise_key=noise_key,
        scope=request.scope,
        resume=resume,
    )
