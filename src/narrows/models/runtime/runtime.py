"""The exact transformer runtime: streams over an engine (api.TokenModel).

Invariants
- Logits are a pure function of (artifact, the window of the history). The window follows
  ``kv.window_start``; nothing else that callers do (batching, chunks, forks) reaches a number.
- A call either feeds all it was given or raises and leaves every stream as it was. One
  exception: a stream whose window has to slide and finds no memory for it is closed.
- ``pending`` of a stream comes before everything else that is done with it. While a window
  slides it holds the window's tokens, and ``kept`` the logits behind the old one.
- Memory is bounded by ``kv_bytes``: a call that needs more pages raises InputError.

One lock: calls from several threads run one after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from narrows.errors import ArtifactError, InputError
from narrows.models.api import Logits, Stream
from narrows.models.runtime.build import build_engine
from narrows.models.runtime.conformance import conformance_digest
from narrows.models.runtime.engine import Batch, Engine
from narrows.models.runtime.history import History as _Stream
from narrows.models.runtime.kv import PagePool, scope_root, window_start
from narrows.models.runtime.locked import locked
from narrows.models.runtime.numerics import NUMERICS_VERSION, PAGE_TOKENS

if TYPE_CHECKING:
    from narrows.models.artifact import Artifact
    from narrows.models.text.tokenizer import BpeTokenizer

__all__ = ["NUMERICS_VERSION", "Runtime", "conformance_digest", "load_runtime"]

MAX_STREAM_TOKENS = 1 << 20
_CHUNK = 256


class Runtime:
    """``TokenModel`` over an engine. Made by ``load_runtime``."""

    def __init__(
        self, engine: Engine, pages: int, *, name: str, digest: bytes, tokenizer: BpeTokenizer
    ) -> None:
        from narrows.models.runtime.fast import page_bytes

        self.name = name
        self.digest = digest
        self.numerics = b""
        self.tokenizer = tokenizer
        self.vocab_size = engine.shape.vocab
        self.max_context = engine.shape.max_context
        self.backend = engine.backend
        self._page_bytes = page_bytes(engine.shape)
        self.cache_bytes = pages * self._page_bytes
        self._engine = engine
        self._pool = PagePool(pages)
        self.lock = threading.RLock()
        self._latest: dict[int, int] = {}  # id of a stream to its row in the last result
        self._result: Logits = np.empty((0, self.vocab_size), np.int32)

    def stream_bytes(self, tokens: int) -> int:
        return -(-min(tokens, self.max_context) // PAGE_TOKENS) * self._page_bytes

    @property
    def free_pages(self) -> int:
        return self._pool.free_pages

    @locked
    def open(self, tokens: Sequence[int], scope: int = 0, lazy: bool = False) -> Stream:
        self._check(tokens)
        if scope < 0:
            raise InputError(f"scope {scope} is negative")
        if not tokens:
            raise InputError("a stream needs at least one token to start from")
        stream = _Stream(scope)
        stream.start = window_start(len(tokens) - 1, self.max_context)
        window = tokens[stream.start :]
        # The last token is always computed, since its logits are what a caller wants next.
        stream.pages, stream.node = self._pool.find(window, (len(window) - 1) // PAGE_TOKENS, scope)
        reused = len(stream.pages) * PAGE_TOKENS
        stream.history = [int(token) for token in tokens[: stream.start + reused]]
        stream.pending = [int(token) for token in tokens[stream.start + reused :]]
        try:
            if not lazy:
                self._settle(stream)
        except BaseException:
            self._release(stream)
            raise
        return stream

    @locked
    def catch_up(self, stream: Stream, limit: int) -> int:
        own = self._open_stream(stream)
        if not own.pending:
            self._begin_slide(own)
        if own.pending and limit:
            self._read(own, min(limit, _CHUNK))
        return len(own.pending)

    @locked
    def logits(self, stream: Stream) -> Logits:
        own = self._own(stream)
        row = self._latest.get(id(own))
        if row is not None:
            return self._result[row, :]
        if own.last is None:
            # Feeding the newest token again writes the bytes that are there already.
            batch = self._batch([own], [own.history[-1:]], [own.fed - 1])
            own.last = self._engine.forward(batch)[0].copy()
            self._latest = {}
        return own.last

    @locked
    def advance(self, streams: Sequence[Stream], tokens: Sequence[int]) -> Logits:
        if len(streams) != len(tokens) or not streams:
            raise InputError("one token for each of at least one stream")
        self._check(tokens)
        own = [self._own(stream) for stream in streams]
        if len({id(stream) for stream in own}) < len(own):
            raise InputError("a stream is there twice")
        for stream in own:
            self._slide(stream)
        self._make_room([(stream, 1) for stream in own])
        out = None
        for start in range(0, len(own), _CHUNK):
            part = own[start : start + _CHUNK]
            fresh = [[int(token)] for token in tokens[start : start + _CHUNK]]
            batch = self._batch(part, fresh, [stream.fed for stream in part])
            result = self._engine.forward(batch)
            if len(own) > _CHUNK:
                out = np.empty((len(own), self.vocab_size), np.int32) if out is None else out
                out[start : start + _CHUNK] = result
        for stream, token in zip(own, tokens, strict=True):
            self._fed(stream, [int(token)])
        self._result = result if out is None else out
        self._latest = {id(stream): row for row, stream in enumerate(own)}
        return self._result

    @locked
    def extend(self, stream: Stream, tokens: Sequence[int]) -> Logits:
        self._check(tokens)
        if not tokens:
            raise InputError("nothing to feed")
        own = self._own(stream)
        self._result = self._feed(own, tokens)
        self._latest = {id(own): len(tokens) - 1}
        return self._result

    @locked
    def fork(self, stream: Stream) -> Stream:
        own = self._own(stream)
        twin = _Stream(own.scope)
        self._latest.pop(id(twin), None)  # the id may be that of a stream nobody holds any more
        twin.history, twin.start, twin.node = list(own.history), own.start, own.node
        row = self._latest.get(id(own))
        twin.last = own.last if row is None else self._result[row].copy()
        twin.pages = list(own.pages)
        for page in twin.pages:
            self._pool.hold(page)
        return twin

    @locked
    def close(self, stream: Stream) -> None:
        if isinstance(stream, _Stream):
            self._release(stream)

    def _release(self, stream: _Stream) -> None:
        stream.closed = True
        self._latest.pop(id(stream), None)
        for page in stream.pages:
            self._pool.drop(page)
        stream.pages = []

    def _own(self, stream: Stream) -> _Stream:
        own = self._open_stream(stream)
        self._settle(own)
        return own

    def _open_stream(self, stream: Stream) -> _Stream:
        if not isinstance(stream, _Stream) or stream.closed:
            raise InputError("the stream is closed, or of another model")
        return stream

    def _check(self, tokens: Sequence[int]) -> None:
        if len(tokens) > MAX_STREAM_TOKENS:
            raise InputError(f"{len(tokens)} tokens at once; {MAX_STREAM_TOKENS} are possible")
        if len(tokens) and not (min(tokens) >= 0 and max(tokens) < self.vocab_size):
            raise InputError(f"a token id is outside 0 .. {self.vocab_size - 1}")

    def _feed(self, stream: _Stream, tokens: Sequence[int]) -> Logits:
        """Feed in chunks that no slide interrupts; logits of every token."""
        kept: list[Logits] = []
        done = 0
        undo = (len(stream.history), stream.start)
        while done < len(tokens):
            self._slide(stream)
            room = min(_CHUNK, self.max_context - stream.fed, len(tokens) - done)
            chunk = [int(token) for token in tokens[done : done + room]]
            try:
                self._make_room([(stream, room)])
            except InputError:
                if not self._rewind(stream, *undo):
                    self._release(stream)
                raise
            result = self._engine.forward(self._batch([stream], [chunk], [stream.fed]))
            self._fed(stream, chunk)
            done += room
            if done < len(tokens) or kept:
                kept.append(result.copy())
        return np.concatenate(kept) if kept else result

    def _rewind(self, stream: _Stream, length: int, start: int) -> bool:
        """Back to a shorter history; what lies beyond is never read. False: the window slid."""
        if stream.start != start:
            return False
        shorter = len(stream.history) > length
        del stream.history[length:]
        keep = -(-stream.fed // PAGE_TOKENS)
        for page in stream.pages[keep:]:
            self._pool.drop(page)
        del stream.pages[keep:]
        if shorter:
            stream.node, stream.last = -1, None  # its pages are not offered to others any more
            self._latest.pop(id(stream), None)
        return True

    def _slide(self, stream: _Stream) -> None:
        """Apply the truncation rule before the next token."""
        self._begin_slide(stream)
        self._settle(stream)

    def _begin_slide(self, stream: _Stream) -> None:
        """Let go of the window where it is full; what the model keeps of it is then pending."""
        start = window_start(len(stream.history), self.max_context)
        if start == stream.start:
            return
        # Until a token is fed, the logits are still those of the old window.
        stream.kept = self.logits(stream).copy()
        stream.pending = stream.history[start:]
        for page in stream.pages:
            self._pool.drop(page)
        stream.pages, stream.node = [], scope_root(stream.scope)
        stream.start, stream.last = start, None
        del stream.history[start:]
        self._latest.pop(id(stream), None)

    def _settle(self, stream: _Stream) -> None:
        while stream.pending:
            self._read(stream, _CHUNK)

    def _read(self, stream: _Stream, limit: int) -> None:
        """Feed at most ``limit`` of the pending tokens."""
        chunk = stream.pending[:limit]
        try:
            self._make_room([(stream, len(chunk))])
        except InputError:
            if stream.kept is not None:
                self._release(stream)  # only where forks share its pages: they were not freed
            raise
        result = self._engine.forward(self._batch([stream], [chunk], [stream.fed], False))
        last = result[-1].copy()
        self._latest = {}
        self._fed(stream, chunk)
        del stream.pending[: len(chunk)]
        if not stream.pending:
            stream.last, stream.kept = last if stream.kept is None else stream.kept, None

    def _make_room(self, wanted: list[tuple[_Stream, int]]) -> None:
        """Pages for that many more tokens each, private where they will be written; or none."""
        taken: list[tuple[_Stream, int]] = []
        swapped: list[tuple[_Stream, int, int]] = []
        for stream, count in wanted:
            newest = stream.fed // PAGE_TOKENS
            if stream.fed % PAGE_TOKENS and self._pool.holders[stream.pages[newest]] > 1:
                page = self._take(taken, swapped)
                swapped.append((stream, newest, stream.pages[newest]))
                self._engine.copy_page(stream.pages[newest], page)
                stream.pages[newest] = page
            while len(stream.pages) * PAGE_TOKENS < stream.fed + count:
                page = self._take(taken, swapped)
                stream.pages.append(page)
                taken.append((stream, page))
        for _, _, page in swapped:
            self._pool.drop(page)

    def _take(
        self, taken: list[tuple[_Stream, int]], swapped: list[tuple[_Stream, int, int]]
    ) -> int:
        page = self._pool.take()
        if page is not None:
            return page
        for stream, last in reversed(taken):
            stream.pages.pop()
            self._pool.drop(last)
        for stream, index, shared in swapped:
            self._pool.drop(stream.pages[index])
            stream.pages[index] = shared
        raise InputError(
            f"the key-value memory is full ({self._pool.pages} pages of {PAGE_TOKENS} tokens)",
            "close streams, or give the model more kv_bytes",
        )

    def _batch(
        self,
        streams: list[_Stream],
        fresh: Sequence[Sequence[int]],
        at: Sequence[int],
        every: bool = True,
    ) -> Batch:
        tables = np.zeros((len(streams), max(len(s.pages) for s in streams)), np.int32)
        for row, stream in enumerate(streams):
            tables[row, : len(stream.pages)] = stream.pages
        counts = [len(tokens) for tokens in fresh]
        rows = sum(counts)
        positions = [np.arange(p, p + n, dtype=np.int32) for p, n in zip(at, counts, strict=True)]
        return Batch(
            tokens=np.array([token for tokens in fresh for token in tokens], np.int32),
            positions=np.concatenate(positions),
            table_of=np.repeat(np.arange(len(streams), dtype=np.int32), counts),
            tables=tables,
            wanted=np.arange(rows if every else 0, dtype=np.int32)
            if every
            else np.array([rows - 1], np.int32),
        )

    def _fed(self, stream: _Stream, tokens: list[int]) -> None:
        before = stream.fed
        stream.history.extend(tokens)
        stream.last = None
        self._latest.pop(id(stream), None)
        for index in range(before // PAGE_TOKENS, stream.fed // PAGE_TOKENS):
            if stream.node < 0:
                break
            first = stream.start + index * PAGE_TOKENS
            page_tokens = stream.history[first : first + PAGE_TOKENS]
            stream.node = self._pool.publish(stream.node, page_tokens, stream.pages[index])


def load_runtime(
    artifact: Artifact, *, threads: int = 0, kv_bytes: int = 512 << 20, backend: str = "auto"
) -> Runtime:
    """A model ready to serve. ``threads`` 0: one per processor this process may use.

    ``backend``: an engine's name (``models/engines.py``). The same integers whichever it is.
    Computes the conformance digest and compares it with the header's ``conformance`` (hex),
    if it has one. Raises ArtifactError (malformed, wrong version, wrong integers) or
    InputError (impossible limits).
    """
    from narrows.models.text.tokenizer import BpeTokenizer

    tokenizer = BpeTokenizer.from_artifact(artifact)
    engine, pages = build_engine(artifact, threads, kv_bytes, backend)
    model = Runtime(
        engine,
        pages,
        name=str(artifact.header.get("name", artifact.path.stem)),
        digest=artifact.digest,
        tokenizer=tokenizer,
    )
    model.numerics = conformance_digest(model)
    if artifact.header.get("conformance") not in (None, model.numerics.hex()):
        raise ArtifactError(
            f"{artifact.path.name}: this machine computes other integers than its importer",
            "do not serve with it; run 'narrows weak check' on both machines",
        )
    return model
