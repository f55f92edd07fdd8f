"""Weak models side by side: what each makes of the same answers, and what it takes.

Every model goes through the real link (``bench/codec_run``) with the same answers, in a process
of its own, so that its memory is its own. An answer's bits are its code length and its share of
everything else on the link (opens, ends, checks, pushes), by code length.

Intervals: 95 %, percentile bootstrap over answers (2,000 resamples, fixed seed) of bits ÷ bytes;
for two models over the same resamples of the *difference*, which is what decides between them.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.coding.link.options import LinkOptions
from narrows.errors import InputError, NarrowsError, PeerError
from narrows.measure.answers import replay_answer
from narrows.measure.run import Run, Traffic
from narrows.models.registry import load_model, resolve
from narrows.rows import some_rows

RESAMPLES = 2000
SEED = 1
STREAMS = 64

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Measured:
    """``bits`` and ``bytes`` by answer. Speeds in weak tokens a second, one end;
    ``cpu_s``: processor seconds of both ends. ``rss_bytes``: the highest of a process with
    both ends of a link."""

    name: str
    sha256: str
    artifact_bytes: int
    bits: tuple[float, ...]
    bytes: tuple[int, ...]
    tokens: int
    encode_tok_s: float
    decode_tok_s: float
    cpu_s: float
    rss_bytes: int

    @property
    def bits_per_byte(self) -> float:
        return sum(self.bits) / sum(self.bytes)

    @property
    def tok_s(self) -> float:
        return min(self.encode_tok_s, self.decode_tok_s)

    @property
    def text_bytes_s(self) -> float:
        """UTF-8 a second, the slower end: comparable between tokenizers, which tokens are not."""
        return self.tok_s * sum(self.bytes) / self.tokens

    def interval(self) -> tuple[float, float]:
        """95 % of the bits per byte."""
        return _span(_ratios(self.bits, self.bytes))

    def cost_per_million(self, price_per_core_hour: float) -> float:
        """Of a million tokens, both ends, by processor time."""
        return self.cpu_s / self.tokens * 1e6 / 3600 * price_per_core_hour


def measure(
    weak: str,
    answers: Path,
    rows: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Measured:
    """One model, in this process. Raises NarrowsError."""
    table = some_rows(answers, rows)
    models = (load_model(weak), load_model(weak))
    stream = models[0].open([0])
    models[0].advance([stream], [0])  # compiled before the clock starts
    models[0].close(stream)
    replayed = [replay_answer(models[0], row) for row in table]
    began_cpu = time.process_time()
    run = Run(models, LinkOptions(), replayed, Traffic(STREAMS))
    once = run.go(iter(range(len(replayed))), True, lambda done: progress(done, len(replayed)))
    cpu_s = time.process_time() - began_cpu
    share = 8 * once.link_bytes / sum(map(sum, once.costs))
    tokens = sum(map(len, once.costs))
    return Measured(
        name=models[0].name,
        sha256=models[0].digest.hex(),
        artifact_bytes=0 if models[0].name == "bytes" else resolve(weak).stat().st_size,
        bits=tuple(share * sum(costs) for costs in once.costs),
        bytes=tuple(len(row["response"].encode("utf-8", "surrogatepass")) for row in table),
        tokens=tokens,
        encode_tok_s=tokens / once.encode_s,
        decode_tok_s=tokens / once.decode_s,
        cpu_s=cpu_s,
        rss_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )


def compare(
    models: Sequence[str],
    answers: Path,
    rows: int | None,
    price_per_core_hour: float,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """The whole report, ready for JSON."""
    if len(some_rows(answers, rows)) < 2:  # told before anything is loaded
        raise InputError("one answer has no spread", "give two rows at least")
    results: list[Measured] = []
    for name in models:

        def behind(done: int, of: int) -> None:
            progress(len(results) * of + done, len(models) * of)

        results.append(_apart(name, answers, rows, behind))
    return {
        "answers": len(results[0].bits),
        "utf8_bytes": sum(results[0].bytes),
        "price_per_core_hour": price_per_core_hour,
        "models": [_row(one, price_per_core_hour) for one in results],
        "differences": [
            _difference(results[a], results[b])
            for a in range(len(results))
            for b in range(a + 1, len(results))
        ],
        "frontier": frontier([(one.text_bytes_s, one.bits_per_byte) for one in results]),
    }


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (speed, bits per byte) that no other one beats in both, from the
    fastest to the best."""
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], points[i][1]))
    best: list[int] = []
    for index in order:
        if not best or points[index][1] < points[best[-1]][1]:
            best.append(index)
    return best


def _row(one: Measured, price_per_core_hour: float) -> dict[str, Any]:
    low, high = one.interval()
    return {
        "name": one.name,
        "sha256": one.sha256,
        "bits_per_byte": one.bits_per_byte,
        "low": low,
        "high": high,
        "ratio": 8 / one.bits_per_byte,
        "text_bytes_s": one.text_bytes_s,
        "tok_s": one.tok_s,
        "encode_tok_s": one.encode_tok_s,
        "decode_tok_s": one.decode_tok_s,
        "artifact_bytes": one.artifact_bytes,
        "rss_bytes": one.rss_bytes,
        "cost_per_million_tokens": one.cost_per_million(price_per_core_hour),
        "cost_per_gigabyte": one.cost_per_million(price_per_core_hour)
        * (1e3 * one.tokens / sum(one.bytes)),
    }


def _difference(a: Measured, b: Measured) -> dict[str, Any]:
    """b − a, in bits per byte."""
    low, high = _span(_ratios(b.bits, b.bytes) - _ratios(a.bits, a.bytes))
    return {
        "a": a.name,
        "b": b.name,
        "bits_per_byte": b.bits_per_byte - a.bits_per_byte,
        "low": low,
        "high": high,
        "share": b.bits_per_byte / a.bits_per_byte - 1,
    }


def _ratios(bits: Sequence[float], sizes: Sequence[int]) -> NDArray[np.float64]:
    """Bits per byte of every resample; the same resamples for all models of a file."""
    random = np.random.default_rng(SEED)
    count = len(bits)
    own_bits, own_sizes = np.asarray(bits, float), np.asarray(sizes, float)
    ratios = np.empty(RESAMPLES)
    for at in range(RESAMPLES):
        drawn = random.integers(0, count, count)
        ratios[at] = own_bits[drawn].sum() / max(1.0, own_sizes[drawn].sum())
    return ratios


def _span(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _apart(weak: str, answers: Path, rows: int | None, progress: Progress) -> Measured:
    """``measure`` in a process of its own. Raises what it raised; PeerError where it died."""
    context = multiprocessing.get_context("spawn")
    channel = context.Queue()
    child = context.Process(target=_child, args=(weak, answers, rows, channel), daemon=True)
    child.start()
    try:
        while True:
            try:
                word, value = channel.get(timeout=1.0)
            except Empty:
                if child.is_alive():
                    continue
                raise PeerError(f"measuring {weak} died with {child.exitcode}") from None
            if word == "progress":
                progress(*value)
            elif word == "error":
                raise value
            else:
                result: Measured = value
                return result
    finally:
        child.kill()
        child.join()


def _child(weak: str, answers: Path, rows: int | None, channel: Any) -> None:
    try:
        result = measure(
            weak, answers, rows, lambda done, of: channel.put(("progress", (done, of)))
        )
    except NarrowsError as error:
        channel.put(("error", error))
    else:
        channel.put(("result", result))
    channel.close()
    channel.join_thread()
