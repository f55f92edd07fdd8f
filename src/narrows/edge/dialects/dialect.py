"""A dialect: how the clients of one endpoint are answered.

What travels inward is one request for all endpoints (``api/request.py``), and what comes back is
pieces of text. A dialect turns pieces into that endpoint's objects and events. It does no I/O and
knows no link, so nothing that it writes depends on how the link cut the text.

For one request, in this order:

    streamed   begin, then pieces and finish of each answer as they come, then end or failed
    whole      pieces of each answer, then whole

Ids, times and key order are made here, at the edge: what the enclave could choose freely would be
a way out that nobody counts.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from narrows.coding.events import Channel, Finish
from narrows.edge.answer import Piece
from narrows.edge.api import jsonio
from narrows.edge.problems import ApiError


def random_id(prefix: str, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    return prefix + random_bytes(16).hex()


class LinkCost(NamedTuple):
    """What a reply took of the budget. ``link_bytes``: code length of its answers on the link,
    rounded; the gate's padding and framing come on top. ``coding``: how they crossed. ``mode``:
    ``plain``, or what was done to send less. ``saved_bytes``: what their text would have been in
    UTF-8, reasoning that stayed inside at four bytes a token, less ``link_bytes``; 0 at least."""

    link_bytes: int
    coding: str
    mode: str
    saved_bytes: int


class TokenUsage(NamedTuple):
    """Counts for ``usage``. ``reasoning``: of the completion's; None where none are known.
    ``cost``: None before the end."""

    prompt: int
    completion: int
    reasoning: int | None = None
    cost: LinkCost | None = None

    @property
    def narrows(self) -> dict[str, dict[str, Any]]:
        """The field beside the counts, which the APIs that are imitated do not have."""
        return {} if self.cost is None else {"narrows": self.cost._asdict()}

    @property
    def total(self) -> int:
        return self.prompt + self.completion


class Ended(NamedTuple):
    """How an answer ended. ``stop``: the stop string that ended it, where the edge found it."""

    reason: Finish
    stop: str = ""


class Dialect(Protocol):
    """One object a request. ``reply_id``: what its transcript is kept under."""

    @property
    def reply_id(self) -> str: ...

    def add(self, index: int, pieces: Sequence[Piece]) -> None:
        """Text of answer ``index``, where the reply is whole."""

    def whole(self, ends: Sequence[Ended], tokens: TokenUsage) -> dict[str, Any]:
        """The reply. ApiError: the answers cannot be said in this dialect."""

    def begin(self, prompt_tokens: int) -> bytes: ...

    def pieces(self, index: int, pieces: Sequence[Piece]) -> bytes: ...

    def finish(self, index: int, end: Ended) -> bytes: ...

    def end(self, tokens: TokenUsage) -> bytes: ...

    def failed(self, problem: ApiError) -> bytes:
        """The last event of a stream that failed."""

    def error(self, problem: ApiError) -> dict[str, Any]:
        """The body of a failed reply."""

    def ping(self) -> bytes:
        """What shows proxies and clients that the stream lives."""


def event(body: object, name: str = "") -> bytes:
    """A server-sent event; without ``name`` it is a message."""
    head = b"event: " + name.encode("ascii") + b"\n" if name else b""
    return head + b"data: " + jsonio.dump(body) + b"\n\n"


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces that go on in the same place as one; a tool's name is whole and stays apart."""
    found: list[tuple[Piece, list[str]]] = []
    for piece in pieces:
        last = found[-1][0] if found else None
        same = last is not None and (last.channel, last.call) == (piece.channel, piece.call)
        if same and piece.channel is not Channel.TOOL_NAME:
            found[-1][1].append(piece.text)
        else:
            found.append((piece, [piece.text]))
    return [piece._replace(text="".join(texts)) for piece, texts in found]


@dataclass(slots=True)
class Block:
    """A run of text in one channel, or one tool call: ``TOOL_ARGUMENTS`` with a ``name``."""

    channel: Channel
    name: str = ""
    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.parts)


class BlockStep(NamedTuple):
    """What happens to ``blocks[at]``; ``text`` is what came to it."""

    what: Literal["open", "text", "close"]
    at: int
    text: str = ""


class Blocks:
    """Pieces of one answer as blocks, each open until the next one begins. ``keep`` false: their
    text is not kept."""

    def __init__(self, keep: bool = True) -> None:
        self.list: list[Block] = []
        self._keep = keep
        self._open = False

    def feed(self, pieces: Sequence[Piece]) -> list[BlockStep]:
        steps: list[BlockStep] = []
        for piece in joined(pieces):
            if piece.channel is Channel.TOOL_NAME:
                steps += self._begin(Block(Channel.TOOL_ARGUMENTS, piece.text))
                continue
            if not self._open or self.list[-1].channel is not piece.channel:
                steps += self._begin(Block(piece.channel))
            if self._keep:
                self.list[-1].parts.append(piece.text)
            steps.append(BlockStep("text", len(self.list) - 1, piece.text))
        return steps

    def finish(self) -> list[BlockStep]:
        """The last block's end."""
        steps = [BlockStep("close", len(self.list) - 1)] if self._open else []
        self._open = False
        return steps

    def _begin(self, block: Block) -> list[BlockStep]:
        steps = self.finish()
        self.list.append(block)
        self._open = True
        return [*steps, BlockStep("open", len(self.list) - 1)]
