"""The link decoder in a thread of its own: model steps are heavy and never on the event loop.

One thread per link runs jobs in order: requests first (they cost little and their numbers must
be known before their frames go inward), then coded bytes in slices of ``SLICE_BYTES``, so that
what a slice completes is on its way while the next one is decoded.

Bounds: the caller stops reading from the gate while ``backlog_bytes`` is high; the thread stops
decoding while ``MAX_REPORTS`` of its reports are not taken yet. A slice may hold minutes of
model steps: between two batches of them the thread looks whether it is closed, answers requests
and gives the model to whoever waits for it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from narrows.coding.events import AnswerSpec, Event, Text, Tokens
from narrows.errors import NarrowsError

SLICE_BYTES = 64
MAX_REPORTS = 64


class ResumableAnswer(Protocol):
    """``verified``: an answer's first tokens that a check has covered."""

    @property
    def number(self) -> int: ...

    @property
    def verified(self) -> tuple[int, ...]: ...


class Decoder(Protocol):
    """The decoding half of a link's codec (``narrows.coding.link.LinkDecoder``)."""

    def request(self, spec: AnswerSpec) -> int:
        """The answer's number: requests are counted on both sides."""

    def step(self, data: bytes) -> list[tuple[int, Event]]:
        """Take ``data`` and decode one batch of it. Raises LinkError: the link is over."""

    @property
    def more(self) -> bool:
        """Whether the next step has something to do without further bytes."""

    @property
    def position(self) -> int:
        """Bytes decoded so far."""

    def open_answers(self) -> Sequence[ResumableAnswer]:
        """Answers begun and not ended; valid behind an error too."""

    def close(self) -> None:
        """Give the model's memory back; nothing is decoded afterwards."""


Events = Sequence[tuple[int, Event]]


class Turn:
    """A weak model's lock: its decoders have it in the order in which they asked."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked = 0
        self._served = 0

    @property
    def waiting(self) -> int:
        """How many wait for it behind the one that has it."""
        with self._changed:
            return max(self._asked - self._served - 1, 0)

    def __enter__(self) -> None:
        with self._changed:
            mine = self._asked
            self._asked += 1
            while self._served != mine:
                self._changed.wait()

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._served += 1
            self._changed.notify_all()


class DecodeWorker:
    """``turn``: one for all decoders of a weak model, since the arrays that a model returns hold
    until its next call, whoever makes it: a lost link may decode its last batch while the next
    link decodes already. Held for one batch at a time. ``post`` runs a callable on the owner's
    thread (``loop.call_soon_threadsafe``).

    ``on_events(events, fed_bytes)`` and ``on_error(error)`` are posted; behind an error the
    thread ends."""

    def __init__(
        self,
        decoder: Decoder,
        turn: Turn,
        post: Callable[[Callable[[], None]], object],
        on_events: Callable[[Events, int], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._decoder = decoder
        self._turn = turn
        self._post = post
        self._on_events = on_events
        self._on_error = on_error
        self._wake = threading.Condition()
        self._requests: deque[tuple[Callable[[], AnswerSpec], Callable[[_Outcome], None]]] = deque()
        self._chunks: deque[tuple[bytes, float]] = deque()  # with the time of arrival
        self._undone = (0, 0.0)  # bytes of the slice in work not reported yet, its arrival
        self._reports = 0
        self._closed = False
        self.backlog_bytes = 0
        self._thread = threading.Thread(target=self._run, name="narrows-decoder", daemon=True)
        self._thread.start()

    def request(
        self, make_spec: Callable[[], AnswerSpec], done: Callable[[_Outcome], None]
    ) -> None:
        """Have the decoder await an answer; ``done`` gets its number and spec, or the error of
        ``make_spec`` (then the answer has no number and must not be sent)."""
        with self._wake:
            self._requests.append((make_spec, done))
            self._wake.notify()

    def late_s(self, now_s: float) -> float:
        """How long the oldest bytes that are not decoded yet have waited; monotonic seconds."""
        with self._wake:
            if not self.backlog_bytes:
                return 0.0
            undone_bytes, since_s = self._undone
            if not undone_bytes and self._chunks:
                since_s = self._chunks[0][1]
            return max(0.0, now_s - since_s)

    def feed(self, data: bytes) -> None:
        """Queue coded bytes."""
        now_s = time.monotonic()
        with self._wake:
            for start in range(0, len(data), SLICE_BYTES):
                self._chunks.append((data[start : start + SLICE_BYTES], now_s))
            self.backlog_bytes += len(data)
            self._wake.notify()

    def close(self) -> None:
        """Nothing is posted any more, except what already was. Does not wait."""
        with self._wake:
            self._closed = True
            self._wake.notify()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; whether it has ended, and the decoder is the caller's."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._step():
                pass
        except Exception as error:  # noqa: BLE001 - a bug in a codec must fail its link, not hang it
            failure = error
            with self._wake:
                closed = self._closed
            if not closed:
                self._post(lambda: self._on_error(failure))
        finally:
            self._decoder.close()

    def _step(self) -> bool:
        with self._wake:
            while not self._closed and not self._requests and not self._may_decode():
                self._wake.wait()
            if self._closed:
                return False
            job = self._requests.popleft() if self._requests else None
            data = b""
            if not job and not self._undone[0]:
                data, since_s = self._chunks.popleft()
                self._undone = (len(data), since_s)
        if job:
            self._answer_request(*job)
        else:
            self._decode(data)
        return True

    def _may_decode(self) -> bool:
        return bool(self._undone[0] or self._chunks) and self._reports < MAX_REPORTS

    def _answer_request(
        self, make_spec: Callable[[], AnswerSpec], done: Callable[[_Outcome], None]
    ) -> None:
        outcome: _Outcome
        try:
            spec = make_spec()
        except NarrowsError as error:
            outcome = error
        else:
            outcome = (self._decoder.request(spec), spec)
        self._post(lambda: done(outcome))

    def _decode(self, data: bytes) -> None:
        before = self._decoder.position
        with self._turn:
            if self._closed:  # while others had the model
                return
            events = _joined(self._decoder.step(data))
        with self._wake:
            self._reports += 1
            undone_bytes, since_s = self._undone
            done_bytes = undone_bytes
            if self._decoder.more:
                done_bytes = min(self._decoder.position - before, undone_bytes - 1)
            self._undone = (undone_bytes - done_bytes, since_s)
            if self._closed:
                return
        self._post(lambda: self._report(events, done_bytes))

    def _report(self, events: Events, fed_bytes: int) -> None:
        with self._wake:
            self._reports -= 1
            self.backlog_bytes -= fed_bytes
            self._wake.notify()
        self._on_events(events, fed_bytes)


def _joined(events: Events) -> Events:
    """The same with fewer, longer pieces, each answer's in their order; answers do not depend
    on one another, so they need not stay interleaved."""
    by_number: dict[int, list[Event]] = {}
    for number, event in events:
        by_number.setdefault(number, []).append(event)
    return [(number, event) for number, own in by_number.items() for event in _merged(own)]


def _merged(events: Sequence[Event]) -> Iterator[Event]:
    for kind, run in itertools.groupby(events, type):
        if kind is Tokens:
            ids = (one.ids for one in run if isinstance(one, Tokens))
            yield Tokens(tuple(itertools.chain.from_iterable(ids)))
        elif kind is Text:
            yield Text(b"".join(one.data for one in run if isinstance(one, Text)))
        else:
            yield from run


_Outcome = tuple[int, AnswerSpec] | NarrowsError
