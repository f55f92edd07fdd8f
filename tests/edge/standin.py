"""A transparent link codec and a byte-level weak model: the edge's tests look at the edge.

One line of JSON per event; numbers as the link counts them. ``test_real_link.py`` runs the same
edge on the real codec.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np

from narrows.coding.events import (
    AnswerSpec,
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
from narrows.errors import LinkError

_KINDS = {
    "open": lambda value: Opened(Coding(value)),
    "switch": lambda value: Switch(Channel(value)),
    "tokens": lambda value: Tokens(tuple(value)),
    "text": lambda value: Text(bytes.fromhex(value)),
    "usage": lambda value: Usage(*value),
    "finished": lambda value: Finished(Finish(value)),
    "failed": lambda value: Failed(Failure(value)),
}


def encode_event(number: int, event: Event) -> bytes:
    match event:
        case Opened(coding):
            kind, value = "open", int(coding)
        case Switch(channel):
            kind, value = "switch", int(channel)
        case Tokens(ids):
            kind, value = "tokens", list(ids)
        case Text(data):
            kind, value = "text", data.hex()
        case Usage(prompt, completion):
            kind, value = "usage", [prompt, completion]
        case Finished(reason):
            kind, value = "finished", int(reason)
        case Failed(code):
            kind, value = "failed", int(code)
    return json.dumps([number, kind, value]).encode() + b"\n"


class LineDecoder:
    """``LinkDecoder``'s interface over lines of JSON."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._count = 0

    def request(self, spec: AnswerSpec) -> int:
        self._count += 1
        return self._count - 1

    more = False
    position = 0

    def step(self, data: bytes) -> list[tuple[int, Event]]:
        self._rest.append(data)
        if b"\n" not in data:
            return []
        *lines, rest = b"".join(self._rest).split(b"\n")
        self._rest = [rest]
        return [self._event(line) for line in lines]

    def open_answers(self) -> list[object]:
        return []

    def close(self) -> None:
        """Nothing to give back."""

    def _event(self, line: bytes) -> tuple[int, Event]:
        try:
            number, kind, value = json.loads(line)
            return number, _KINDS[kind](value)
        except (ValueError, KeyError, TypeError) as error:
            raise LinkError("the check failed") from error


class ByteTokenizer:
    digest = hashlib.sha256(b"bytes").digest()
    vocab_size = 257
    special_ids = frozenset({256})
    eos_ids = frozenset({256})

    def encode(self, data: bytes) -> list[int]:
        return list(data)

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b"<end>"


class _Stream:
    def __init__(self, length: int) -> None:
        self.length = length


class FlatModel:
    """Every byte as likely as any other: costs 8 bits a byte, needs no time."""

    name = "flat"
    digest = hashlib.sha256(b"flat").digest()
    numerics = hashlib.sha256(b"numerics").digest()
    vocab_size = 257
    tokenizer = ByteTokenizer()
    max_context = 4096
    cache_bytes = 1 << 50

    def stream_bytes(self, tokens):
        return 0

    def open(self, tokens, scope=0, lazy=False):
        return _Stream(len(tokens))

    def catch_up(self, stream, limit):
        return 0

    def logits(self, stream):
        return np.zeros(self.vocab_size, np.int32)

    def advance(self, streams, tokens):
        for stream in streams:
            stream.length += 1
        return np.zeros((len(streams), self.vocab_size), np.int32)

    def extend(self, stream, tokens):
        stream.length += len(tokens)
        return np.zeros((len(tokens), self.vocab_size), np.int32)

    def fork(self, stream):
        return _Stream(stream.length)

    def close(self, stream):
        pass
