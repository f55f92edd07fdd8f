"""Answers replayed as concurrent streams on a virtual clock, through a real link.

Nothing here waits: an encoder and a decoder run at virtual times; the time they take is
measured apart. The bytes of a poll reach the decoder at the poll's own time, so a delay is what
the codec adds: from the put of a piece to the event that completes it.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from narrows.coding.events import (
    AnswerSpec,
    Coding,
    Event,
    Failed,
    Finish,
    Finished,
    Text,
    Tokens,
)
from narrows.coding.link.answer import Answer, CodeFactory, Item
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.encoder import LinkEncoder
from narrows.coding.link.options import LinkOptions
from narrows.coding.tokens.choice import CodingChoice
from narrows.coding.tokens.code import TokenCode
from narrows.errors import LinkError
from narrows.models.api import TokenModel


@dataclass(frozen=True)
class Replayed:
    """An answer to replay: pieces arrive one per token interval; bytes or token ids."""

    spec: AnswerSpec
    coding: Coding
    pieces: tuple[bytes, ...] | tuple[int, ...]


@dataclass(frozen=True)
class Traffic:
    """``streams`` at once, each a new answer when one ends; ``token_s``: pieces a second.
    ``exponential``: gaps drawn, else regular with a random phase. ``burst``: all at once."""

    streams: int
    token_s: float = 50.0
    exponential: bool = False
    burst: bool = False
    seed: int = 1


@dataclass
class RunResult:
    answers: int = 0
    pieces: int = 0
    link_bytes: int = 0
    bits: dict[str, float] = field(default_factory=dict)
    delays_ms: list[float] = field(default_factory=list)
    encode_s: float = 0.0
    decode_s: float = 0.0
    costs: list[list[float]] = field(default_factory=list)

    @property
    def ideal_bits(self) -> float:
        return self.bits.get("tokens", 0.0)

    @property
    def overhead(self) -> float:
        return 8 * self.link_bytes / self.ideal_bits - 1 if self.ideal_bits else 0.0

    def delay_ms(self, share: float) -> float:
        ordered = sorted(self.delays_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class _CostEncoder(LinkEncoder):
    """Keeps what every token cost, by answer."""

    costs: dict[int, list[float]]
    _seen = 0.0

    def coded(self, answer: Answer, item: Item) -> None:
        bits = self.stats.bits.get("tokens", 0.0)
        if bits != self._seen:
            self.costs.setdefault(answer.number, []).append(bits - self._seen)
            self._seen = bits
        super().coded(answer, item)


@dataclass
class _Stream:
    number: int = -1
    row: int = -1
    next_piece: int = 0


class Run:
    """One replay. ``rows`` gives indices into ``answers``; it ends with the first stream that
    finds no more (``until_drained``: after the last answer has arrived)."""

    def __init__(
        self,
        models: tuple[TokenModel, TokenModel],
        options: LinkOptions,
        answers: Sequence[Replayed],
        traffic: Traffic,
        make_code: CodeFactory = TokenCode,
    ) -> None:
        choice = CodingChoice(random.Random(traffic.seed).random)
        self._encoder = _CostEncoder(models[0], options, make_code, choice=choice)
        self._encoder.costs = {}
        self._decoder = LinkDecoder(models[1], options, make_code)
        self._answers = answers
        self._traffic = traffic
        self._random = random.Random(traffic.seed)
        self._row_of: list[int] = []
        self._waiting: dict[int, deque[tuple[int, float]]] = {}
        self._got: dict[int, list[bytes | tuple[int, ...]]] = {}
        self._size: dict[int, int] = {}
        self.result = RunResult()

    def go(
        self,
        rows: Iterator[int],
        until_drained: bool,
        progress: Callable[[int], None] = lambda _: None,
        limit_ms: float = float("inf"),
    ) -> RunResult:
        period = 1000.0 / self._traffic.token_s
        heap: list[tuple[float, int]] = []
        streams = [_Stream() for _ in range(self._traffic.streams)]
        for index in range(len(streams)):
            heapq.heappush(heap, (self._random.random() * period, index))
        now_ms = 0.0
        while heap:
            due = self._encoder.next_poll_ms(now_ms)
            if due is not None and due < heap[0][0]:
                now_ms = max(now_ms, due)
                self._poll(now_ms)
                continue
            now_ms, index = heapq.heappop(heap)
            if now_ms > limit_ms:
                break
            while True:
                more = self._arrive(streams[index], rows, now_ms)
                if more is None or not self._traffic.burst or streams[index].number < 0:
                    break
            if more is not None:
                gap = self._random.expovariate(1 / period) if self._traffic.exponential else period
                heapq.heappush(heap, (now_ms + gap, index))
            elif not until_drained:
                break
            if not heap or heap[0][0] > now_ms:
                self._poll(now_ms)
            progress(self.result.answers)
        while until_drained and (due := self._encoder.next_poll_ms(now_ms)) is not None:
            now_ms = max(now_ms, due)
            self._poll(now_ms)
        self.result.bits = dict(self._encoder.stats.bits)
        self.result.costs = [[] for _ in self._answers]
        for number, costs in self._encoder.costs.items():
            self.result.costs[self._row_of[number]] = costs
        return self.result

    def _arrive(self, stream: _Stream, rows: Iterator[int], now_ms: float) -> bool | None:
        """The stream's next piece; None where there are no more rows."""
        if stream.number < 0:
            row = next(rows, None)
            if row is None:
                return None
            self._begin(stream, row)
        answer = self._answers[stream.row]
        if stream.next_piece < len(answer.pieces):
            piece = answer.pieces[stream.next_piece]
            stream.next_piece += 1
            self._put(stream.number, piece, now_ms)
        if stream.next_piece >= len(answer.pieces):
            self._encoder.put(stream.number, Finished(Finish.STOP))
            stream.number = -1
        return True

    def _begin(self, stream: _Stream, row: int) -> None:
        answer = self._answers[row]
        number = self._decoder.request(answer.spec)
        if self._encoder.request(answer.spec) != number:
            raise LinkError("the two ends count answers otherwise")
        self._row_of.append(row)
        self._encoder.open(number, answer.coding)
        self._waiting[number] = deque()
        self._got[number] = []
        self._size[number] = 0
        stream.number, stream.row, stream.next_piece = number, row, 0

    def _put(self, number: int, piece: bytes | int, now_ms: float) -> None:
        self.result.pieces += 1
        event: Event = Text(piece) if isinstance(piece, bytes) else Tokens((piece,))
        size = len(piece) if isinstance(piece, bytes) else 1
        waiting = self._waiting[number]
        waiting.append(((waiting[-1][0] if waiting else self._size[number]) + size, now_ms))
        self._encoder.put(number, event)

    def _poll(self, now_ms: float) -> None:
        began = time.perf_counter()
        data = self._encoder.poll(now_ms)
        middle = time.perf_counter()
        events = self._decoder.feed(data) if data else []
        self.result.encode_s += middle - began
        self.result.decode_s += time.perf_counter() - middle
        self.result.link_bytes += len(data)
        for number, event in events:
            self._deliver(number, event, now_ms)

    def _deliver(self, number: int, event: Event, now_ms: float) -> None:
        if isinstance(event, Text | Tokens):
            part = event.data if isinstance(event, Text) else event.ids
            self._got[number].append(part)
            self._size[number] += len(part)
            waiting = self._waiting[number]
            while waiting and waiting[0][0] <= self._size[number]:
                self.result.delays_ms.append(now_ms - waiting.popleft()[1])
        elif isinstance(event, Failed):
            raise LinkError(f"answer {number} failed: {event.code.name}")
        elif isinstance(event, Finished):
            self._compare(number)

    def _compare(self, number: int) -> None:
        """Round trip exact, or the run fails."""
        answer = self._answers[self._row_of[number]]
        got = self._got.pop(number)
        if isinstance(answer.pieces[0] if answer.pieces else b"", bytes):
            same = b"".join(got) == b"".join(answer.pieces)  # type: ignore[arg-type] # one kind
        else:
            same = [i for ids in got for i in ids] == list(answer.pieces)
        if not same:
            raise LinkError(f"row {self._row_of[number]} did not round-trip")
        self.result.answers += 1
        del self._waiting[number]
