"""One answer on its way from the link to a client: events in, pieces of text out.

Lives on the event loop's thread. States: waiting -> open -> ended (``finish`` or ``error`` is
set, once, and nothing follows). Text between two calls of ``take`` is joined, so the link's own
cuts do not show.

A client that reads slowly cannot hold the link: text piles up here to ``buffer_bytes``, then
the answer is aborted. Stop strings are applied here for native tokens, on decoded text with
hold-back; the enclave applies the same rule and ends the answer itself, so a token behind a
stop means that it does not, and the answer is cancelled there. The answer still ends by its
``Finished``, which the link passes on only behind the check of all its symbols.

Native tokens cross with the model's markup. The head of the answer says which (``markup_of``), on
every link anew; what the stop strings let through is then taken apart by ``MarkupReader``. How much
reasoning stayed inside is said at the end (``coding/kept.py``).
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
from narrows.coding.kept import MAX_COUNT_DIGITS, asks_less, reads_counts
from narrows.coding.markup import CallForm, Markup, ReasoningForm, markup_of, reads_markup
from narrows.edge import problems
from narrows.edge.markup import MarkupReader
from narrows.edge.problems import ApiError
from narrows.edge.text import TextDecoder
from narrows.errors import LinkError
from narrows.wire.messages import Request
from narrows.wire.stops import StopFinder

MAX_TOOL_CALLS = 128
MAX_RESUMES = 3  # an answer that breaks every link must not break all later ones
MAX_TOOL_NAME_CHARS = 256
MAX_HEAD = 8  # switches; no head has so many


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
        self.judged = False  # the watch has counted how it is coded
        self.costed_tokens = 0
        self.costed_bits = 0.0
        self.cancelled = False
        self.asked_s = time.monotonic()
        self.first_text_s = self.last_text_s = 0.0  # 0: none yet
        self.last_event_s = 0.0
        self.lost_s = 0.0
        self.resumes = 0
        self.reasoning_tokens: int | None = None  # None: the model has no reasoning to count
        self.local = False  # a model outside gave it, and nothing crossed
        self.concise = False  # asked for with the operator's wording
        self.kept_tokens = 0  # of reasoning that stayed inside
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
        self._marked = reads_markup(request.body)
        self._counts = reads_counts(request.body)
        self._said_bytes = 0  # in the channel that it is in
        self._count: str | None = None  # what is said of kept reasoning
        self._head: list[Channel] | None = []  # None: it is over
        self._markup: Markup | None = None
        self._reader: MarkupReader | None = None

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
    def thinks(self) -> bool:
        """Whether nothing of it has come, and its reasoning is asked to stay inside."""
        return not self.tokens and not self.text_bytes and asks_less(self.request.body)

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
        self._head = []
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
            asked = problems.particular(self.request.body)
            self.fail(problems.failure_error(event.code, asked))

    def _open(self, coding: Coding) -> None:
        if self.opened and (coding is Coding.TEXT) != (self._coding is Coding.TEXT):
            raise LinkError("an answer changed its kind when it was resumed")
        if not self.opened:
            self._decoder = TextDecoder(native=coding is not Coding.TEXT)
        self._coding = coding
        self.opened = True

    def _begin(self, head: list[Channel]) -> None:
        """The head is over: this is how the text is to be read."""
        self._head = None
        markup = markup_of(head)
        if self._markup is None:
            self._markup = markup
            if markup.calls is not CallForm.NONE or markup.reasoning in _WRITTEN:
                self._reader = MarkupReader(markup, _tool_names(self.request))
            if markup.reasoning is not ReasoningForm.NONE:
                self.reasoning_tokens = 0
            if markup.reasoning is ReasoningForm.KEPT and not self._counts:
                raise LinkError("kept reasoning where nobody asked what is said of it")
        elif self._markup != markup:
            raise LinkError("a resumed answer is written in another way")

    def _on_tokens(self, ids: tuple[int, ...]) -> None:
        if self._marked and self._head is not None:
            self._begin(self._head)
        known = self.tokens[self._replay : self._replay + len(ids)]
        if list(ids[: len(known)]) != known:
            raise LinkError("a resumed answer went another way")
        self._replay += len(ids)
        fresh = ids[len(known) :]
        if fresh and self._stops.stopped:
            self.abort()
            return
        self.tokens.extend(fresh)
        if self._reader is None:
            self._add(self._decoder.feed(b"".join(map(self._token_bytes, fresh))))
            return
        for token in fresh:
            if self._reader.reasoning and self.reasoning_tokens is not None:
                self.reasoning_tokens += 1
            self._add(self._decoder.feed(self._token_bytes(token)))

    def _switch(self, channel: Channel) -> None:
        if self.native and self._marked:
            if self._head is None or len(self._head) == MAX_HEAD:
                raise LinkError("a switch behind an answer's head")
            self._head.append(channel)
            return
        if self._replay < len(self.tokens):
            raise LinkError("a resumed answer went another way")
        if self._count is not None:
            raise LinkError("a switch behind the count of kept reasoning")
        self._switched = True
        self._flush()
        blank = self._channel is Channel.REASONING and not self._said_bytes
        self._said_bytes = 0
        if blank and channel is Channel.REFUSAL and self._counts:
            self._count = ""
            return
        if channel is Channel.TOOL_ARGUMENTS and self._channel is not Channel.TOOL_NAME:
            raise LinkError("arguments that do not follow the name of their call")
        self._channel = channel
        if channel is Channel.TOOL_NAME:
            self._next_call()

    def _next_call(self) -> None:
        self._call += 1
        if self._call >= MAX_TOOL_CALLS:
            raise LinkError("too many tool calls")

    def _flush(self) -> None:
        """End the current piece of text: held bytes, held stop prefix, a tool's whole name."""
        self._add(self._decoder.finish())
        if self.native and self._channel is Channel.CONTENT:
            self._show(self._stops.finish(), final=True)
        if self._channel is Channel.TOOL_NAME:
            self._append(Channel.TOOL_NAME, self._name, always=True)
            self._name = ""

    def _kept(self) -> None:
        """How much reasoning stayed inside: said at the end, or counted beyond what came."""
        if self._count is not None:
            if not self._count.isdigit():
                raise LinkError("a count of kept reasoning that is none")
            self.kept_tokens = int(self._count)
        elif self._markup is not None and self._markup.reasoning is ReasoningForm.KEPT:
            counted = self.usage.completion_tokens if self.usage else 0
            self.kept_tokens = max(0, counted - len(self.tokens))
        if self.kept_tokens:
            self.reasoning_tokens = (self.reasoning_tokens or 0) + self.kept_tokens

    def _add(self, text: str) -> None:
        self._said_bytes += len(text)
        if self._count is not None:
            self._count += text
            if len(self._count) > MAX_COUNT_DIGITS or not text.isascii():
                raise LinkError("a count of kept reasoning that is none")
        elif self._channel is Channel.TOOL_NAME:
            self._name += text
            if len(self._name) > MAX_TOOL_NAME_CHARS:
                raise LinkError("too long a tool name")
        elif self._channel is Channel.CONTENT and self.native:
            self._show(self._stops.feed(text))
        else:
            self._append(self._channel, text)

    def _show(self, text: str, final: bool = False) -> None:
        """Native text that no stop string holds back."""
        if self._reader is None:
            self._append(Channel.CONTENT, text)
            return
        parts = self._reader.feed(text)
        for channel, part in [*parts, *self._reader.finish()] if final else parts:
            if channel is Channel.TOOL_NAME:
                self._next_call()
            self._append(channel, part, always=channel is Channel.TOOL_NAME)

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
        if self._marked and self._head:  # without a token behind it
            self._begin(self._head)
        self._flush()
        if self.ended:
            return
        self._kept()
        if self._stops.stopped:
            reason = Finish.STOP
        if self._reader is not None and reason is Finish.STOP and self._call >= 0:
            reason = Finish.TOOL_CALLS  # the model said that it ends; why is in its markup
        if reason is Finish.CANCELLED:
            # Asked for by no one here, it says that the answer passed a limit of the link.
            asked = self.cancelled
            error = problems.failure_error(Failure.INTERNAL) if asked else problems.over_limit()
            self.fail(error)
        else:
            self.finish = reason


_WRITTEN = (ReasoningForm.MARKED, ReasoningForm.BEGUN)


def _tool_names(request: Request) -> frozenset[str]:
    """What the answer may call."""
    return frozenset(tool["function"]["name"] for tool in request.body.get("tools", ()))


def _nothing() -> None:
    """Before a link takes an answer on there is nothing to abort."""


def _no_tokens(token: int) -> bytes:
    raise LinkError(f"token {token} before a link took the answer on")
