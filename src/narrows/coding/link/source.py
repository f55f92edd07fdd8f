"""What the encoder holds of an answer: events in, items out.

The grammar's limits of one answer are counted here, before its items reach the grammar: there
a passed limit is a LinkError and ends the link for all. An answer that would pass one ends with
what fits, by END with CANCELLED, which no end of its own has where no cancel asked for it.
"""

from __future__ import annotations

from collections import deque

from narrows.coding.events import (
    OWN_NOISE,
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
from narrows.coding.link.answer import Answer, End, Item, Kind
from narrows.coding.link.items import USAGE_LIMIT, changes
from narrows.coding.link.options import LinkOptions
from narrows.coding.link.text import Piece, TextTokens
from narrows.errors import InputError
from narrows.models.api import TokenModel

PIECE_MS = 20.0
"""Text is decided within its hold-back and about one more piece of a lively stream."""

MAX_WAITING_BYTES = 1 << 20
"""What an answer may say before there is room to open it; ``EVENT_BYTES`` is the least that an
event counts. Beyond, it fails as OVERLOADED."""
EVENT_BYTES = 64

_LIMITED = (Kind.SWITCH, Kind.BYTE, Kind.LITERAL)  # together at most ``max_switches``


class Source:
    """One answer between ``open`` and its end on the link. Times: when ``poll`` saw an event."""

    def __init__(
        self, number: int, coding: Coding, model: TokenModel, options: LinkOptions
    ) -> None:
        tokenizer = model.tokenizer
        self.number = number
        self.coding = coding
        self.queue: deque[Item] = deque()
        self.complete = False
        self.bits = 0.0  # code length of its tokens so far, and their number
        self.tokens = 0
        self.answer: Answer | None = None
        self._inbox: list[Event] = []
        self._timed: list[tuple[Event, float]] = []  # of an answer that waits to open
        self._waiting_bytes = 0
        self._ended = False
        self._usage: Usage | None = None
        self.noise = OWN_NOISE
        self._channel = Channel.CONTENT
        self._room = 0
        self._switches_left = options.limits.max_switches
        self._eos = tokenizer.eos_ids
        self._untextual = tokenizer.eos_ids | tokenizer.special_ids
        self._vocab_size = min(tokenizer.vocab_size, model.vocab_size)
        hold_ms = options.text_hold_ms
        self._text = TextTokens(tokenizer, hold_ms) if coding is Coding.TEXT else None
        self._held_ms = hold_ms + PIECE_MS

    @property
    def expected(self) -> bool:
        answer = self.answer
        return answer is not None and answer.started and answer.silent_rounds == 0

    @property
    def ended(self) -> bool:
        """Whether its last event has been put."""
        return self._ended

    @property
    def failed(self) -> bool:
        """Whether its end comes next, and is a failure: that needs no model."""
        return bool(self.queue) and self.queue[0].kind is Kind.FAIL

    @property
    def text_due_ms(self) -> float | None:
        return self._text.due_ms() if self._text and not self.complete else None

    @property
    def untimed(self) -> bool:
        """Whether events wait to be seen by a poll, or to be made items by one."""
        return bool(self._inbox) or (self.answer is not None and bool(self._timed))

    @property
    def over(self) -> bool:
        """Its end is queued: what is put from now on is not read."""
        return self.complete or self._ended

    def put(self, event: Event) -> None:
        """InputError for what the answer's coding or state does not allow."""
        if self._ended:
            raise InputError(f"answer {self.number} has ended already")
        if isinstance(event, Opened):
            raise InputError("an answer is opened by open()")
        if isinstance(event, Tokens):
            if self.coding is Coding.TEXT:
                raise InputError(f"answer {self.number} is text, not tokens")
            if not all(0 <= token < self._vocab_size for token in event.ids):
                raise InputError(f"a token of answer {self.number} is not in the vocabulary")
        if isinstance(event, Text) and self.coding is not Coding.TEXT:
            raise InputError(f"answer {self.number} is tokens, not text")
        if isinstance(event, Usage) and not all(
            0 <= count < USAGE_LIMIT for count in (event.prompt_tokens, event.completion_tokens)
        ):
            raise InputError(f"a usage count of answer {self.number} is out of range")
        self._ended = isinstance(event, Finished | Failed)
        self._inbox.append(event)

    def opened(self, answer: Answer) -> None:
        self.answer = answer
        self._room = answer.bytes_left if self.coding is Coding.TEXT else answer.items_left

    def refuse(self) -> None:
        """Fail: too many wait to open already. Idempotent."""
        self._timed.clear()
        self._inbox = [Failed(Failure.OVERLOADED)]
        self._ended = True

    def absorb(self, now_ms: float) -> None:
        """Give the events that have been put their time and, once open, make them items."""
        events, self._inbox = self._inbox, []
        if self.answer is None:
            self._wait(events, now_ms)
            return
        for event, came_ms in self._timed:
            self._absorb(event, came_ms)
        self._timed.clear()
        for event in events:
            self._absorb(event, now_ms)
        if self._text and not self.complete:
            self._add(self._text.take(now_ms))

    def _wait(self, events: list[Event], now_ms: float) -> None:
        """Nothing is tokenised before there is room to open, and little is held."""
        for event in events:
            if event == Finished(Finish.CANCELLED):
                self._timed.clear()
            self._timed.append((event, now_ms))
            self._waiting_bytes += EVENT_BYTES
            if isinstance(event, Text):
                self._waiting_bytes += len(event.data)
            elif isinstance(event, Tokens):
                self._waiting_bytes += EVENT_BYTES * len(event.ids)
        too_much = self._waiting_bytes > MAX_WAITING_BYTES
        if too_much and self._timed[-1][0] != Finished(Finish.CANCELLED):
            self._timed = [(Failed(Failure.OVERLOADED), now_ms)]
            self._ended = True

    def _absorb(self, event: Event, now_ms: float) -> None:
        if self.complete:
            return
        if isinstance(event, Tokens):
            for token in event.ids:
                kind = Kind.LITERAL if token in self._eos else Kind.TOKEN
                self._append(Item(kind, token, size=1, came_ms=now_ms), now_ms)
        elif isinstance(event, Text):
            if self._text:
                self._text.put(event.data, now_ms)
        elif isinstance(event, Switch):
            if not changes(self._channel, event.channel):
                return
            self._channel = event.channel
            self._flush()
            self._append(Item(Kind.SWITCH, int(event.channel), came_ms=now_ms), now_ms)
        elif isinstance(event, Usage):
            self._usage = event
        elif isinstance(event, Finished):
            if event.reason is Finish.CANCELLED:
                self._forget()
            else:
                self._flush()
            self._end(Kind.END, End(event.reason, usage=self._usage), now_ms)
        elif isinstance(event, Failed):
            self._flush()
            self._end(Kind.FAIL, End(None, event.code, self._usage), now_ms)

    def overload(self, now_ms: float) -> None:
        """There is no memory for more of it: it fails, and what is not coded yet is dropped."""
        self._forget()
        self._timed.clear()
        self.complete = False
        self._end(Kind.FAIL, End(None, Failure.OVERLOADED), now_ms)

    def _forget(self) -> None:
        """No one reads a cancelled answer: what is not coded yet need not be paid for."""
        self.queue.clear()
        self._text = None

    def _flush(self) -> None:
        if self._text:
            self._add(self._text.finish())

    def _add(self, pieces: list[tuple[Piece, float]]) -> None:
        for (token, data), came_ms in pieces:
            if 0 <= token < self._vocab_size and token not in self._untextual:
                items = [(Kind.TOKEN, token, len(data))]
            else:
                items = [(Kind.BYTE, byte, 1) for byte in data]
            for kind, value, size in items:
                item = Item(kind, value, size=size, came_ms=came_ms, held_ms=self._held_ms)
                self._append(item, came_ms)

    def _append(self, item: Item, now_ms: float) -> None:
        """Queue it, unless the far side would refuse it: then the answer ends here."""
        if self.complete:
            return
        limited = item.kind in _LIMITED
        if item.size > self._room or (limited and not self._switches_left):
            self._end(Kind.END, End(Finish.CANCELLED, usage=self._usage), now_ms)
            return
        self._room -= item.size
        self._switches_left -= limited
        self.queue.append(item)

    def _end(self, kind: Kind, end: End, now_ms: float) -> None:
        if not self.complete:
            self.queue.append(Item(kind, end=end, came_ms=now_ms))
            self.complete = True
