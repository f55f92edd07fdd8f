"""``narrows bench codec``: what real answers cost on a link, and what compressors make of them.

1. *The file once*: every row through a real encoder and decoder with the weak model, as many
   streams at once as asked for; gives ratio, bits and speed. The round trip must be exact.
2. *Live*: the recorded code lengths of (1) through the link again, rows recycled so that all
   streams are live all the time; gives overhead and delay. ``--sweep`` repeats this for one
   stream and for irregular arrivals under several options.
3. *Alone*: finished answers of about 300 tokens on a link where nothing else happens.
4. The coder without a link, and the peers.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from narrows.bench.codec_peers import peers
from narrows.coding.link.options import LinkOptions
from narrows.coding.range.kernels import TAIL, decode_symbols, encode_symbols, new_state, push
from narrows.errors import InputError
from narrows.measure.answers import replay_answer
from narrows.measure.replay import ReplayCode, ReplayModel, replayed
from narrows.measure.run import Run, RunResult, Traffic
from narrows.models.registry import load_model
from narrows.rows import some_rows

LIVE_MS = 20_000.0
SINGLE_MS = 120_000.0
ALONE_TOKENS = 300
CODER_SYMBOLS = 4_000_000
HOLDS_MS = (50, 200, 1000)
ROUND_HOLDS_MS = (20, 40, 60, 100, 160, 250)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CodecSettings:
    answers: Path
    train: Path | None = None
    weak: str = "default"
    streams: int = 64
    exponential: bool = False
    rows: int | None = None
    options: LinkOptions = field(default_factory=LinkOptions)
    with_float: bool = False
    sweep: bool = False
    with_peers: bool = True


def run(settings: CodecSettings, progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """The whole report, ready for JSON."""
    rows = some_rows(settings.answers, settings.rows)
    train = some_rows(settings.train) if settings.train else []
    texts = [row["response"].encode("utf-8", "surrogatepass") for row in rows]
    models = (load_model(settings.weak), load_model(settings.weak))
    answers = [replay_answer(models[0], row) for row in rows]
    traffic = Traffic(settings.streams, exponential=settings.exponential)
    once = Run(models, settings.options, answers, traffic).go(
        iter(range(len(answers))), True, lambda done: progress(done, len(answers))
    )
    size = sum(map(len, texts))
    report = _file_report(once, size)
    report |= {"weak": models[0].name, "streams": settings.streams}
    report["arrivals"] = "exponential" if settings.exponential else "regular"
    report["max_hold_ms"] = settings.options.max_hold_ms
    report["ideal_float_bits_per_byte"] = None
    if settings.with_float:
        from narrows.bench.codec_float import float_bits

        prompts = [list(answer.spec.prompt) for answer in answers]
        tokens = [models[0].tokenizer.encode(text) for text in texts]
        bits = float_bits(settings.weak, prompts, tokens)
        report["ideal_float_bits_per_byte"] = bits / size
        report["over_float"] = 8 * once.link_bytes / bits - 1
    live = _live(once.costs, settings.options, traffic, LIVE_MS)
    report |= _live_report(live)
    report["alone"] = _alone(once.costs, settings.options)
    if settings.sweep:
        report["sweep"] = _sweep(once.costs, settings.options, settings.streams)
    report["coder_symbols_per_s"] = coder_speed()
    trained = [row["response"].encode("utf-8", "surrogatepass") for row in train]
    report["peers"] = peers(texts, trained) if settings.with_peers else {}
    return report


def _file_report(once: RunResult, size: int) -> dict[str, Any]:
    tokens = sum(map(len, once.costs))
    return {
        "answers": once.answers,
        "utf8_bytes": size,
        "link_bytes": once.link_bytes,
        "ratio": size / once.link_bytes,
        "bits_per_byte": 8 * once.link_bytes / size,
        "ideal_bits": once.ideal_bits,
        "file_overhead": once.overhead,
        "file_bits": {kind: round(bits) for kind, bits in once.bits.items()},
        "tokens": tokens,
        "codec_tok_s": tokens / max(once.encode_s, once.decode_s),
        "encode_tok_s": tokens / once.encode_s,
        "decode_tok_s": tokens / once.decode_s,
    }


def _live(
    costs: Sequence[Sequence[float]], options: LinkOptions, traffic: Traffic, limit_ms: float
) -> RunResult:
    """All streams live: rows recycled in an order of their own until ``limit_ms``."""
    models = (ReplayModel(costs), ReplayModel(costs))
    answers = replayed(costs)
    order = list(range(len(answers)))
    random.Random(traffic.seed).shuffle(order)
    run = Run(models, options, answers, traffic, ReplayCode)
    return run.go(itertools.cycle(order), False, limit_ms=limit_ms)


def _live_report(live: RunResult) -> dict[str, Any]:
    return {
        "overhead": live.overhead,
        "delay_p50_ms": live.delay_ms(0.5),
        "delay_p99_ms": live.delay_ms(0.99),
        "signal_bits_per_token": live.bits.get("signals", 0.0) / live.pieces,
        "push_bits_per_token": live.bits.get("pushes", 0.0) / live.pieces,
    }


def _alone(costs: Sequence[Sequence[float]], options: LinkOptions) -> dict[str, float]:
    """Finished answers cut to 300 tokens, each on a link of its own: bytes over the ideal,
    and what the bar (2 % + 4 bytes) leaves at the worst of them."""
    over: list[float] = []
    slack: list[float] = []
    for line in costs:
        if len(line) <= ALONE_TOKENS:
            continue
        short = [[*line[:ALONE_TOKENS], line[-1]]]
        models = (ReplayModel(short), ReplayModel(short))
        traffic = Traffic(1, burst=True)
        run = Run(models, options, replayed(short), traffic, ReplayCode)
        result = run.go(iter((0,)), True)
        ideal = result.ideal_bits / 8
        over.append(result.link_bytes - ideal)
        slack.append(1.02 * ideal + 4 - result.link_bytes)
    if not over:
        return {}
    return {"answers": len(over), "mean_over_bytes": statistics.mean(over), "slack": min(slack)}


def _sweep(
    costs: Sequence[Sequence[float]], options: LinkOptions, streams: int
) -> dict[str, list[dict[str, Any]]]:
    single = []
    for hold_ms in HOLDS_MS:
        held = replace(options, max_hold_ms=hold_ms)
        result = _live(costs, held, Traffic(1), SINGLE_MS)
        single.append({"max_hold_ms": hold_ms} | _live_report(result))
    irregular = []
    for round_ms in ROUND_HOLDS_MS:
        held = replace(options, round_hold_ms=round_ms)
        result = _live(costs, held, Traffic(streams, exponential=True), LIVE_MS)
        irregular.append({"round_hold_ms": round_ms} | _live_report(result))
    return {"one_stream": single, "exponential": irregular}


def coder_speed() -> float:
    """Symbols a second through the range coder, encoding and decoding, the slower of the two.
    256 symbols of unequal shares."""
    random_numbers = np.random.default_rng(1)
    shares = random_numbers.integers(1, 1 << 16, 256).astype(np.uint64)
    bounds = np.concatenate([np.zeros(1, np.uint64), np.cumsum(shares)])
    table = (bounds * np.uint64(1 << 32)) // bounds[-1]
    symbols = random_numbers.choice(256, CODER_SYMBOLS, p=np.diff(table) / 2**32)
    cums, freqs = table[symbols], np.diff(table)[symbols]
    out = np.zeros(4 * CODER_SYMBOLS + 8, np.uint8)
    encode_symbols(new_state(), out, cums[:10], freqs[:10])
    state = new_state()
    began = time.perf_counter()
    encode_symbols(state, out, cums, freqs)
    encode_s = time.perf_counter() - began
    push(state, out)
    decode_symbols(new_state(), out, int(state[TAIL]), table, 10)
    began = time.perf_counter()
    decoded = decode_symbols(new_state(), out, int(state[TAIL]), table, CODER_SYMBOLS)
    decode_s = time.perf_counter() - began
    if not np.array_equal(decoded, symbols):
        raise InputError("the range coder did not round-trip")
    return CODER_SYMBOLS / max(encode_s, decode_s)
