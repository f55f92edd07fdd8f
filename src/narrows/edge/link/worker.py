"""The link decoder in a thread of its own: model steps are heavy and never on the event loop.

One thread per link runs jobs in order: requests first (they cost little and their numbers must
be known before their frames go inward), then coded bytes in slices of ``SLICE_BYTES``, so that
what a slice completes is on its way while the next one is decoded.

Bounds: the caller stops reading from the gate while ``backlog_bytes`` is high; the thread stops
decoding while ``MAX_REPORTS`` of its reports are not taken yet.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from narrows.coding.events import AnswerSpec, Event, Text, Tokens
from narrows.errors import NarrowsError

SLICE_BYTES = 64
MAX_REPORTS = 64


class OpenAnswer(Protocol):
    """``verified``: an answer's first tokens that a check has covered."""

    @property
    def number(self) -> int: ...

    @property
    def verified(self) -> tuple[int, ...]: ...


class Decoder(Protocol):
    """The decoding half of a link's codec (``narrows.coding.link.LinkDecoder``)."""

    def request(self, spec: AnswerSpec) -> int:
        """The answer's number: requests are counted on both sides."""

    def feed(self, data: bytes) -> list[tuple[int, Event]]:
        """Everything that ``data`` makes decodable. Raises LinkError: the link is over."""

    def open_answers(self) -> Sequence[OpenAnswer]:
        """Answers begun and not ended; valid behind an error too."""

    def close(self) -> None:
        """Give the model's memory back; nothing is decoded afterwards."""


Events = Sequence[tuple[int, Event]]


class DecodeWorker:
    """``turn``: one for all decoders of a weak model, since the arrays that a model returns hold
    until its next call, whoever makes it: a lost link may decode its last slice while the next
    link decodes already. ``post`` runs a callable on the owner's thread
    (``loop.call_soon_threadsafe``).

    ``on_events(events, fed_bytes)`` and ``on_error(error)`` are posted; behind an error the
    thread ends."""

    def __init__(
        self,
        decoder: Decoder,
        turn: threading.Lock,
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
        self._chunks: deque[bytes] = deque()
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

    def feed(self, data: bytes) -> None:
        """Queue coded bytes."""
        with self._wake:
            for start in range(0, len(data), SLICE_BYTES):
                self._chunks.append(data[start : start + SLICE_BYTES])
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
            data = b"" if job else self._chunks.popleft()
        if job:
            self._answer_request(*job)
        else:
            self._decode(data)
        return True

    def _may_decode(self) -> bool:
        return bool(self._chunks) and self._reports < MAX_REPORTS

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
        with self._turn:
            events = _joined(self._decoder.feed(data))
        with self._wake:
            self._reports += 1
            if self._closed:
                return
        self._post(lambda: self._report(events, len(data)))

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
