"""What general compressors make of the same answers, each answer on its own: bits per byte.

The trained ones have the train file, as a dictionary or as text read first; their copies of it
are not counted, just as the weak model is not.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any

DICTIONARY_BYTES = 112_640
PPMD_PRIMER_BYTES = 4 << 20
PPMD_ORDER = 6
PPMD_MEMORY_BYTES = 64 << 20
PPMD_MAX_ROWS = 32


def peers(answers: Sequence[bytes], train: Sequence[bytes]) -> dict[str, float | None]:
    """Bits per byte by name; None where the library is missing or there is no train file."""
    zstd, brotli, ppmd = (_library(name) for name in ("zstandard", "brotli", "ppmd"))
    result: dict[str, float | None] = {
        "gzip -9": _bits(answers, _gzip),
        "zstd -19": None,
        "zstd + dictionary": None,
        "brotli": _bits(answers, lambda data: len(brotli.compress(data))) if brotli else None,
        "ppmd primed": None,
    }
    if zstd:
        plain = zstd.ZstdCompressor(level=19)
        result["zstd -19"] = _bits(answers, lambda data: len(plain.compress(data)))
    if zstd and train:
        dictionary = zstd.train_dictionary(DICTIONARY_BYTES, list(train))
        trained = zstd.ZstdCompressor(level=19, dict_data=dictionary)
        result["zstd + dictionary"] = _bits(answers, lambda data: len(trained.compress(data)))
    if ppmd and train:
        result["ppmd primed"] = _ppmd(ppmd, answers, train)
    return result


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _bits(answers: Sequence[bytes], size: Callable[[bytes], int]) -> float:
    return 8 * sum(map(size, answers)) / max(1, sum(map(len, answers)))


def _gzip(data: bytes) -> int:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return len(packer.compress(data)) + len(packer.flush())


def _ppmd(ppmd: Any, answers: Sequence[bytes], train: Sequence[bytes]) -> float:
    """PPMd (variant H) that has read the end of the train file; evenly chosen rows, at most
    PPMD_MAX_ROWS, since the primer is read again for each."""
    primer = b"\n\n".join(train)[-PPMD_PRIMER_BYTES:]
    step = -(-len(answers) // PPMD_MAX_ROWS)
    alone = _ppmd_size(ppmd, (primer,))
    chosen = answers[::step]
    bits = sum(8 * (_ppmd_size(ppmd, (primer, data)) - alone) for data in chosen)
    return bits / max(1, sum(map(len, chosen)))


def _ppmd_size(ppmd: Any, parts: Sequence[bytes]) -> int:
    sink = _Sink()
    encoder = ppmd.Ppmd7Encoder(sink, PPMD_ORDER, PPMD_MEMORY_BYTES)
    for part in parts:
        encoder.encode(part)
    encoder.flush()
    encoder.close()
    return sink.size


class _Sink:
    def __init__(self) -> None:
        self.size = 0

    def write(self, data: bytes) -> int:
        self.size += len(data)
        return len(data)
