"""One answer on its way from the link to a client: events in, pieces of text out.

Lives on the event loop's thread. States: waiting -> open -> ended (``finish`` or ``error`` is
set, once, and nothing follows). Text between two calls of ``take`` is joined, so the link's own
cuts do not show.

A client that reads slowly cannot hold the link: text piles up here to ``buffer_bytes``, then
the answer is aborted. Stop strings are applied here for native tokens, on decoded text with
hold-back; the enclave applies the same rule and ends the answer itself, so a token behind a
stop means that it does not, and the answer is cancelled there. The answer still ends by its
``Finished``, which the link passes on only behind the check of all its symbols.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from narrows.alarms.noise import AnswerNoise
from narrows.coding.events import (
    Channel,
    Coding,
    Event,
    Failed,
    Failure,
    Finish,
    Finished,
    Opened,
    Switch,
    Text,
    Tokens,
    Usage,
)
from narrows.edge import problems
from narrows.edge.problems import ApiError
from narrows.edge.text import TextDecoder
from narrows.errors import LinkError
from narrows.wire.messages import Request
from narrows.wire.stops import StopFinder

MAX_TOOL_CALLS = 128
MAX_RESUMES = 3  # an answer that breaks every link must not break all later ones
MAX_TOOL_NAME_CHARS = 256


class WeakName(NamedTuple):
    """A weak model in statistics: its name, and ``Offer.label``."""

    name: str
    label: str


class Piece(NamedTuple):
    """``call``: which tool call, from 0; -1 for other channels."""

    channel: Channel
    text: str
    call: int = -1


class EdgeAnswer:
    """``request``: as sent inward. ``changed`` is called after every event; ``abort`` asks the
    link to stop the answer inside (set by the link)."""

    def __init__(
        self,
        request: Request,
        stops: tuple[str, ...],
        buffer_bytes: int,
        answer_bytes: int,
        changed: Callable[[], None],
    ) -> None:
        self.request = request
        self.number: int | None = None
        self.weak = WeakName("", "")  # of the link that it is, or was last, on
        self.tokenizer = b""  # the digest of what its tokens mean
        self.record: list[str] | None = None  # content, where a transcript is wanted
        self.opened = False
        self.finish: Finish | None = None
        self.error: ApiError | None = None
        self.usage: Usage | None = None
        self.prompt_tokens = 0
        self.tokens: list[int] = []
        self.text_bytes = 0
        self.bits = 0.0
        self.temperature = self.top_p = 0  # Q16, once it has a number
        self.noise: AnswerNoise | None = None  # what the watch knows of it
        self.costed_tokens = 0
        self.costed_bits = 0.0
        self.cancelled = False
        self.asked_s = time.monotonic()
        self.first_text_s = self.last_text_s = 0.0  # 0: none yet
        self.last_event_s = 0.0
        self.lost_s = 0.0
        self.resumes = 0
        self.abort: Callable[[], None] = _nothing
        self._coding = Coding.PLAIN
        self._token_bytes: Callable[[int], bytes] = _no_tokens
        self._stops = StopFinder(stops)
        self._decoder = TextDecoder(native=True)
        self._buffer_bytes = buffer_bytes
        self._answer_bytes = answer_bytes
        self._changed = changed
        self._channel = Channel.CONTENT
        self._call = -1
        self._name = ""
        self._pieces: list[Piece] = []
        self._pending_bytes = 0
        self._replay = 0
        self._switched = False
        self._lost_tokens = -1

    @property
    def ended(self) -> bool:
        return self.finish is not None or self.error is not None

    @property
    def resumable(self) -> bool:
        """Whether another link can go on with it: nothing came yet, or native content only."""
        fits = not self.opened or (self.native and not self._switched)
        return fits and not self.ended and self.resumes <= MAX_RESUMES

    def lose(self, now_s: float, patience_s: float) -> bool:
        """Its link broke. Whether it shall wait for another one: not for ever again, so the
        time counts from the first loss behind which no token came."""
        if len(self.tokens) > self._lost_tokens:
            self._lost_tokens, self.lost_s = len(self.tokens), now_s
        self.resumes += 1
        return self.resumable and now_s - self.lost_s <= patience_s

    @property
    def stop(self) -> str:
        """The stop string that ended it; empty where none did, or where the model server cut."""
        return self._stops.found

    @property
    def coding(self) -> Coding:
        """How it crosses the link, since it was opened there."""
        return self._coding

    @property
    def native(self) -> bool:
        return self._coding is not Coding.TEXT

    @property
    def has_text(self) -> bool:
        return bool(self._pieces)

    def attach(self, token_bytes: Callable[[int], bytes], abort: Callable[[], None]) -> None:
        """A link takes the answer on. After ``request.resume`` of its tokens, those already
        delivered come again and are compared."""
        self._token_bytes = token_bytes
        self.abort = abort
        self._replay = len(self.request.resume)
        self.cancelled = False

    def take(self) -> list[Piece]:
        """The text that arrived since the last call."""
        pieces, self._pieces = self._pieces, []
        self._pending_bytes = 0
        return pieces

    def fail(self, error: ApiError) -> None:
        """End without success; later calls and events change nothing."""
        if not self.ended:
            self.error = error
            self._changed()

    def on_event(self, event: Event) -> None:
        """Raises nothing: what a hostile enclave sends fails its answer."""
        if self.ended:
            return
        try:
            self._apply(event)
        except LinkError:
            malformed = problems.failure_error(Failure.UPSTREAM_MALFORMED)
            self.fail(problems.link_lost() if self.resumes else malformed)
            self.abort()
            return
        self._changed()

    def _apply(self, event: Event) -> None:
        if isinstance(event, Tokens):
            self._on_tokens(event.ids)
        elif isinstance(event, Text):
            self._add(self._decoder.feed(event.data))
        elif isinstance(event, Switch):
            self._switch(event.channel)
        elif isinstance(event, Opened):
            self._open(event.coding)
        elif isinstance(event, Usage):
            self.usage = event
        elif isinstance(event, Finished):
            self._finish(event.reason)
        elif isinstance(event, Failed):
            self.fail(problems.failure_error(event.code))

    def _open(self, coding: Coding) -> None:
        if self.opened and (coding is Coding.TEXT) != (self._coding is Coding.TEXT):
            raise LinkError("an answer changed its kind when it was resumed")
        if not self.opened:
            self._decoder = TextDecoder(native=coding is not Coding.TEXT)
        self._coding = coding
        self.opened = True

    def _on_tokens(self, ids: tuple[int, ...]) -> None:
        known = self.tokens[self._replay : self._replay + len(ids)]
        if list(ids[: len(known)]) != known:
            raise LinkError("a resumed answer went another way")
        self._replay += len(ids)
        fresh = ids[len(known) :]
        if fresh and self._stops.stopped:
            self.abort()
            return
        self.tokens.extend(fresh)
        self._add(self._decoder.feed(b"".join(map(self._token_bytes, fresh))))

    def _switch(self, channel: Channel) -> None:
        if self._replay < len(self.tokens):
            raise LinkError("a resumed answer went another way")
        self._switched = True
        self._flush()
        if channel is Channel.TOOL_ARGUMENTS and self._channel is not Channel.TOOL_NAME:
            raise LinkError("arguments that do not follow the name of their call")
        self._channel = channel
        if channel is Channel.TOOL_NAME:
            self._call += 1
            if self._call >= MAX_TOOL_CALLS:
                raise LinkError("too many tool calls")

    def _flush(self) -> None:
        """End the current piece of text: held bytes, held stop prefix, a tool's whole name."""
        self._add(self._decoder.finish())
        if self.native and self._channel is Channel.CONTENT:
            self._append(Channel.CONTENT, self._stops.finish())
        if self._channel is Channel.TOOL_NAME:
            self._append(Channel.TOOL_NAME, self._name, always=True)
            self._name = ""

    def _add(self, text: str) -> None:
        if self._channel is Channel.TOOL_NAME:
            self._name += text
            if len(self._name) > MAX_TOOL_NAME_CHARS:
                raise LinkError("too long a tool name")
        elif self._channel is Channel.CONTENT and self.native:
            self._append(Channel.CONTENT, self._stops.feed(text))
        else:
            self._append(self._channel, text)

    def _append(self, channel: Channel, text: str, always: bool = False) -> None:
        if not text and not always:
            return
        call = self._call if channel in (Channel.TOOL_NAME, Channel.TOOL_ARGUMENTS) else -1
        self._pieces.append(Piece(channel, text, call))
        if self.record is not None and channel is Channel.CONTENT:
            self.record.append(text)
        size = len(text.encode("utf-8", "surrogatepass"))
        self._pending_bytes += size
        self.text_bytes += size
        self.last_text_s = time.monotonic()
        self.first_text_s = self.first_text_s or self.last_text_s
        if self._pending_bytes > self._buffer_bytes or self.text_bytes > self._answer_bytes:
            slow = self.text_bytes <= self._answer_bytes
            self.fail(problems.too_slow() if slow else problems.too_large(self._answer_bytes))
            self.abort()

    def _finish(self, reason: Finish) -> None:
        if self._replay < len(self.tokens):
            raise LinkError("a resumed answer ended before what it had said")
        self._flush()
        if self.ended:
            return
        if self._stops.stopped:
            reason = Finish.STOP
        if reason is Finish.CANCELLED:
            # Asked for by no one here, it says that the answer passed a limit of the link.
            asked = self.cancelled
            error = problems.failure_error(Failure.INTERNAL) if asked else problems.over_limit()
            self.fail(error)
        else:
            self.finish = reason


def _nothing() -> None:
    """Before a link takes an answer on there is nothing to abort."""


def _no_tokens(token: int) -> bytes:
    raise LinkError(f"token {token} before a link took the answer on")
