"""A server's text answer without its reasoning, of which only the number of tokens leaves.

Reasoning is what the server says apart (``reasoning_content``), and what stands between ``<think>``
and ``</think>`` at the front of the content where the server leaves it there. What is hidden is
counted, not kept. Reasoning that never ends is bounded: the answer then ends as one that was cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from narrows.coding.events import Channel, Event, Finish, Finished, Switch, Text, Usage
from narrows.coding.kept import BYTES_PER_TOKEN, ReasoningLevel, count_said
from narrows.coding.markup import THINK, THOUGHT

_OPENS, _CLOSES = THINK.encode(), THOUGHT.encode()
_SPACE = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class ReasoningRule:
    """The operator's. ``limit_bytes``: of one answer's reasoning that stays inside."""

    most: ReasoningLevel = ReasoningLevel.SEND
    limit_bytes: int = 1 << 20


class Counting(Protocol):
    """Who reads the server's own figures."""

    @property
    def reasoning_tokens(self) -> int | None: ...


class ReasoningFilter:
    """One answer's switches and texts, less its reasoning. ``begun``: the prompt has opened it,
    so that content comes behind a ``</think>`` alone, unless the server takes that apart."""

    def __init__(self, limit_bytes: int, begun: bool = False) -> None:
        self.hidden_bytes = self.shown_bytes = 0
        self.channel = Channel.CONTENT  # of what is shown
        self._limit_bytes = limit_bytes
        self._from = Channel.CONTENT
        self._thinking = begun
        self._past = False
        self._space = bytearray()  # ahead of all that was said
        self._held = b""

    @property
    def full(self) -> bool:
        """More was hidden than one answer may."""
        return self.hidden_bytes > self._limit_bytes

    def feed(self, event: Switch | Text) -> list[Event]:
        """What of it is shown."""
        if isinstance(event, Switch):
            self._from = event.channel
            if event.channel is not Channel.TOOL_NAME:
                return []
            self.channel = Channel.TOOL_NAME
            return [*self._rest(), event]
        if self._from is Channel.CONTENT:
            data = event.data if self._past else self._content(event.data)
            return self._show(Channel.CONTENT, data)
        before = self._rest()  # in the order in which the server said it
        if self._from is Channel.REASONING:
            self._past = True  # the server takes the markers apart
            self._hide(event.data)
            return before
        return [*before, *self._show(self._from, event.data)]

    def finish(self) -> list[Event]:
        """What is held, at the answer's end."""
        return self._rest()

    def tokens(self, usage: Usage | None, counted: int | None) -> int:
        """How many tokens were hidden: as the server counts, else by their share of the bytes."""
        if counted is not None:
            return counted
        if not self.hidden_bytes:
            return 0
        if usage is None:
            return -(-self.hidden_bytes // BYTES_PER_TOKEN)
        both = self.hidden_bytes + self.shown_bytes
        return round(usage.completion_tokens * self.hidden_bytes / both)

    def _content(self, data: bytes) -> bytes:
        """What of the content's front is content."""
        if not self._thinking and not self._held:
            text = data.lstrip(_SPACE)
            self._space += data[: len(data) - len(text)]
            data = text
        data, self._held = self._held + data, b""
        if not self._thinking:
            if len(data) < len(_OPENS) and _OPENS.startswith(data):
                self._held = data
                if len(self._space) > self._limit_bytes:  # nothing else
                    self._hide(self._front_space())
                return b""
            if not data.startswith(_OPENS):
                self._past = True
                return self._front_space() + data
            self._hide(self._front_space())
            self._thinking = True
        at = data.find(_CLOSES)
        if at < 0:
            keep = _partial(data)
            self._hide(data[: len(data) - keep])
            self._held = data[len(data) - keep :]
            return b""
        self._past = True
        end = at + len(_CLOSES)
        self._hide(data[:end])
        return data[end:]

    def _rest(self) -> list[Event]:
        held, self._held = self._held, b""
        if self._thinking and not self._past:
            self._hide(held)
            return []
        self._past = True
        return self._show(Channel.CONTENT, self._front_space() + held)

    def _front_space(self) -> bytes:
        space, self._space = bytes(self._space), bytearray()
        return space

    def _hide(self, data: bytes) -> None:
        self.hidden_bytes += len(data)

    def _show(self, channel: Channel, data: bytes) -> list[Event]:
        if not data:
            return []
        self.shown_bytes += len(data)
        if channel is self.channel:
            return [Text(data)]
        self.channel = channel
        return [Switch(channel), Text(data)]


async def kept(
    events: AsyncGenerator[Event, None], reader: Counting, hidden: ReasoningFilter, says_count: bool
) -> AsyncGenerator[Event, None]:
    """``events`` of a text answer, not opened yet, without its reasoning. ``says_count``: whether
    the edge reads what is said of it. Closes them."""
    usage: Usage | None = None
    async with contextlib.aclosing(events):
        async for event in events:
            if isinstance(event, Usage):
                usage = event
            elif isinstance(event, Switch | Text):
                for shown in hidden.feed(event):
                    yield shown
                if hidden.full:
                    for last in _ended(hidden, None, None, says_count):
                        yield last
                    yield Finished(Finish.LENGTH)
                    return
            elif isinstance(event, Finished):
                for last in _ended(hidden, usage, reader.reasoning_tokens, says_count):
                    yield last
                yield event
            else:
                yield event


def _ended(
    hidden: ReasoningFilter, usage: Usage | None, counted: int | None, says_count: bool
) -> list[Event]:
    """What comes ahead of the end."""
    last = hidden.finish()
    if says_count and (tokens := hidden.tokens(usage, counted)):
        last += count_said(tokens, hidden.channel)
    return last if usage is None else [*last, usage]


def _partial(data: bytes) -> int:
    """How many bytes at the end of ``data`` may begin ``_CLOSES``."""
    for size in range(min(len(_CLOSES) - 1, len(data)), 0, -1):
        if data.endswith(_CLOSES[:size]):
            return size
    return 0
