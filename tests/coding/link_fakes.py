"""A tiny exact model for link tests, and a link that both ends of a test share.

``TinyModel`` breaks the tests on purpose where the link breaks its contract: every array that
it returned is overwritten at the next call, and streams may not be used once closed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from narrows.coding.events import Channel, Event, Switch, Text, Tokens
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.encoder import LinkEncoder
from narrows.coding.link.options import LinkOptions
from narrows.errors import InputError


class TinyTokenizer:
    """Bytes 0..250 but one, a few words, an end token and a special one."""

    words = (b" the", b" of", b"ing", b"tion", b"  ", "ü".encode())
    unknown = 0x07

    def __init__(self) -> None:
        self.eos = 256 + len(self.words)
        self.vocab_size = self.eos + 2
        self.eos_ids = frozenset({self.eos})
        self.special_ids = frozenset({self.eos, self.eos + 1})
        self.digest = hashlib.sha256(b"tiny").digest()

    def encode(self, data: bytes) -> list[int]:
        ids: list[int] = []
        index = 0
        while index < len(data):
            if data[index] == self.unknown:
                raise InputError("a byte without a token")
            for number, word in enumerate(self.words):
                if data.startswith(word, index):
                    ids.append(256 + number)
                    index += len(word)
                    break
            else:
                ids.append(data[index])
                index += 1
        return ids

    def token_bytes(self, token: int) -> bytes:
        if token < 256:
            return bytes([token])
        if token < self.eos:
            return self.words[token - 256]
        return b"<end>" if token == self.eos else b"<mark>"


@dataclass
class TinyStream:
    history: list[int] = field(default_factory=list)
    unread: list[int] = field(default_factory=list)
    closed: bool = False

    @property
    def length(self) -> int:
        return len(self.history) + len(self.unread)


class TinyModel:
    """Logits from the last two tokens by a fixed random table; sharp enough to compress."""

    max_context = 4096
    page_tokens = 16

    def __init__(self, name: str = "tiny", seed: int = 7, pages: int = 1 << 30) -> None:
        self.name = name
        self.pages = pages
        self.cache_bytes = pages  # a page is a byte
        self._held: dict[int, TinyStream] = {}
        self.tokenizer = TinyTokenizer()
        self.vocab_size = self.tokenizer.vocab_size
        self.digest = hashlib.sha256(f"{name}{seed}".encode()).digest()
        self.numerics = self.digest
        rng = np.random.default_rng(seed)
        self._table = rng.integers(-12 << 16, 0, (64, self.vocab_size), dtype=np.int32)
        self._returned: list[NDArray[np.int32]] = []
        self.steps = 0
        self.steps_at_once: list[int] = []  # tokens of each call, prompts included
        self.open_streams = 0

    def _row(self, history: Sequence[int]) -> NDArray[np.int32]:
        index = (history[-1] * 31 + (history[-2] if len(history) > 1 else 0) * 7) % 64
        row = self._table[index].copy()
        row[(history[-1] * 5 + 1) % self.vocab_size] += 6 << 16
        return row

    def _give(self, rows: list[NDArray[np.int32]]) -> NDArray[np.int32]:
        for old in self._returned:
            old[:] = -1
        self._returned = [np.stack(rows)]
        return self._returned[0]

    def stream_bytes(self, tokens: int) -> int:
        return -(-tokens // self.page_tokens)

    def _bounded(self) -> None:
        """As the runtime: a call that needs more than there is raises."""
        held = sum(self.stream_bytes(len(stream.history)) for stream in self._held.values())
        if held > self.pages:
            raise InputError("the memory is full")

    def open(self, tokens: Sequence[int], scope: int = 0, lazy: bool = False) -> TinyStream:
        if not tokens:
            raise InputError("a stream of nothing")
        self._give([np.zeros(1, np.int32)])
        self.open_streams += 1
        stream = TinyStream([], list(tokens)) if lazy else TinyStream(list(tokens))
        self._held[id(stream)] = stream
        self._bounded()
        return stream

    def catch_up(self, stream: TinyStream, limit: int) -> int:
        """A prompt is read in parts: so a test sees that it can be left."""
        part, stream.unread = stream.unread[:limit], stream.unread[limit:]
        stream.history += part
        self._bounded()
        if part:
            self.steps_at_once.append(len(part))
            self._give([np.zeros(1, np.int32)])
        return len(stream.unread)

    def logits(self, stream: TinyStream) -> NDArray[np.int32]:
        return self._give([self._row(stream.history)])[0]

    def advance(self, streams: Sequence[TinyStream], tokens: Sequence[int]) -> NDArray[np.int32]:
        for stream, token in zip(streams, tokens, strict=True):
            if stream.closed:
                raise InputError("a closed stream")
            stream.history.append(token)
            assert not stream.unread
        self._bounded()
        self.steps += len(tokens)
        self.steps_at_once.append(len(tokens))
        return self._give([self._row(stream.history) for stream in streams])

    def extend(self, stream: TinyStream, tokens: Sequence[int]) -> NDArray[np.int32]:
        rows = []
        for token in tokens:
            stream.history.append(token)
            rows.append(self._row(stream.history))
        self._bounded()
        self.steps += len(tokens)
        return self._give(rows)

    def fork(self, stream: TinyStream) -> TinyStream:
        self.open_streams += 1
        return TinyStream(list(stream.history))

    def close(self, stream: TinyStream) -> None:
        if not stream.closed:
            self.open_streams -= 1
            self._held.pop(id(stream), None)
        stream.closed = True


class Pair:
    """An encoder and a decoder with models of their own, joined byte by byte."""

    def __init__(self, options: LinkOptions | None = None, piece: int = 1) -> None:
        self.encoder = LinkEncoder(TinyModel(), options)
        self.decoder = LinkDecoder(TinyModel(), options)
        self.piece = piece
        self.events: list[tuple[int, Event]] = []
        self.sent = bytearray()

    def request(self, spec: object) -> int:
        number = self.decoder.request(spec)  # type: ignore[arg-type]
        assert self.encoder.request(spec) == number  # type: ignore[arg-type]
        return number

    def poll(self, now_ms: float) -> bytes:
        data = self.encoder.poll(now_ms)
        self.sent += data
        for start in range(0, len(data), self.piece):
            self.events += self.decoder.feed(data[start : start + self.piece])
        return data

    def settle(self, now_ms: float) -> float:
        """Poll when the encoder wants it until nothing is left; the time then."""
        for _ in range(100_000):
            self.poll(now_ms)
            due = self.encoder.next_poll_ms(now_ms)
            if due is None:
                return now_ms
            now_ms = max(now_ms, due)
        raise AssertionError("the encoder never settles")

    def merged(self, number: int) -> list[Event]:
        return merge([event for which, event in self.events if which == number])


def merge(events: list[Event]) -> list[Event]:
    """Neighbouring texts and tokens joined; empty ones and switches that say nothing dropped."""
    result: list[Event] = []
    channel = Channel.CONTENT
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, Switch):
            if event.channel is channel is not Channel.TOOL_NAME:
                continue
            channel = event.channel
        if isinstance(event, Text) and isinstance(last, Text):
            result[-1] = Text(last.data + event.data)
        elif isinstance(event, Tokens) and isinstance(last, Tokens):
            result[-1] = Tokens(last.ids + event.ids)
        elif event not in (Text(b""), Tokens(())):
            result.append(event)
    return result
