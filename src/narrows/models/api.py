"""What coding and serving know of a language model.

Two things implement this: the exact transformer runtime (``models/runtime/runtime.py``) and the
adaptive byte model (``models/bytemodel.py``). The strong built-in model is the same runtime
with another artifact.

Invariants
- Everything here is integer and a pure function of (artifact, token history). Batch size,
  thread count, prefill or single steps, fork or fresh stream: the same integers.
- A logit is int32 in units of 2**-16 bits (log2, not nats): p is proportional to
  ``2**(logit / 65536)``. So 1.0 in these units is a factor of two in probability.
- A returned logits array belongs to the model and holds until the next call on that model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

LOGIT_FRACTION_BITS = 16

Logits = NDArray[np.int32]


class Tokenizer(Protocol):
    """Text to ids and back. ``token_bytes`` is the inverse truth: the text of a token list is
    the concatenation of the bytes of its tokens (specials give their literal text)."""

    @property
    def digest(self) -> bytes:
        """SHA-256 over everything that decides encode and token_bytes (32 bytes)."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that no text encodes to: chat markers, end of text."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end an answer."""

    def encode(self, data: bytes) -> list[int]:
        """Ids whose bytes concatenate to ``data``. Never special ids: special-token strings in
        the text are tokenised as plain text. Raises InputError where a byte has no token."""

    def token_bytes(self, token: int) -> bytes: ...


class Stream(Protocol):
    """One token history inside a model. Opaque; made by ``open`` and ``fork``."""

    @property
    def length(self) -> int:
        """Tokens fed so far."""


class TokenModel(Protocol):
    """A causal language model over integer logits."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> bytes:
        """SHA-256 of the artifact (32 bytes): the model's name on a link."""

    @property
    def numerics(self) -> bytes:
        """SHA-256 of the conformance vector that this machine computed (32 bytes)."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def max_context(self) -> int:
        """Tokens a stream can hold; feeding more applies the stated truncation rule."""

    @property
    def cache_bytes(self) -> int:
        """Bound of all streams' memory together; a call that would pass it raises InputError."""

    def stream_bytes(self, tokens: int) -> int:
        """The most that a stream of so many tokens ever held of it; never less for more tokens,
        and alike wherever the model runs. 0: not counted."""

    def open(self, tokens: Sequence[int], scope: int = 0, lazy: bool = False) -> Stream:
        """A stream that has been fed ``tokens`` (at least one). It shares cached prefixes with
        streams of the same ``scope`` (0 or more) alone: how fast a prompt is read must not
        tell one API key what another has sent. ``lazy``: what is not cached is left to
        ``catch_up``, or to the first call that needs it."""

    def catch_up(self, stream: Stream, limit: int) -> int:
        """Read at most ``limit`` tokens (0: none) of what lies before the stream's next token:
        the rest of a lazy prompt, or a window that is full and must be read anew. How many are
        left; where none are, the next step is a single one."""

    def logits(self, stream: Stream) -> Logits:
        """int32 [vocab_size]: what follows the stream's history."""

    def advance(self, streams: Sequence[Stream], tokens: Sequence[int]) -> Logits:
        """Feed one token to each stream, in one batched step. int32 [len(streams), vocab]."""

    def extend(self, stream: Stream, tokens: Sequence[int]) -> Logits:
        """Feed several tokens in one parallel pass; row i is what follows ``tokens[i]``.
        int32 [len(tokens), vocab]. The caller keeps chunks at 256 tokens or fewer."""

    def fork(self, stream: Stream) -> Stream:
        """A second stream with the same history, cheaply."""

    def close(self, stream: Stream) -> None:
        """Give the stream's memory back. Idempotent."""
