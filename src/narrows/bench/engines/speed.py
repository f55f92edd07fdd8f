"""Tokens a second with a key against without one, on one server that has the plugin.

A pair is two windows, one with keys and one without, in alternating order and close together:
what else the machine does falls on both alike, and the ratio of a pair is free of it but for
what changes within seconds. Reported is the geometric mean of the pairs' ratios, with a 95 %
bootstrap interval over pairs.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from narrows.bench.engines.prompts import PROMPTS
from narrows.enclave.config import UpstreamConfig
from narrows.enclave.modelserver import ModelServer
from narrows.enclave.tokens.completion import Asked, CompletionReader
from narrows.enclave.tokens.strong import StrongText
from narrows.errors import InputError

RESAMPLES = 4000
Say = Callable[[str], None]


def measure(
    upstream: UpstreamConfig, batches: Sequence[int], pairs: int, max_tokens: int, say: Say
) -> dict[str, Any]:
    """Each batch size's ratio. Raises what ``failure_in`` knows where the server fails."""
    if upstream.folder is None:
        raise InputError("the model's folder is needed", "give --folder")
    strong = StrongText(upstream.folder)
    return asyncio.run(_measure(upstream, strong, batches, pairs, max_tokens, say))


async def _measure(
    upstream: UpstreamConfig,
    strong: StrongText,
    batches: Sequence[int],
    pairs: int,
    most: int,
    say: Say,
) -> dict[str, Any]:
    server = ModelServer(upstream)
    window = _Window(server, upstream.model, strong, most)
    rows: dict[str, Any] = {}
    try:
        for batch in batches:
            for keyed in (True, False):  # compiled, and the prompts read
                await window.run(batch, keyed)
            speeds: list[tuple[float, float]] = []
            for n in range(pairs):
                order = (True, False) if n % 2 else (False, True)
                got = {keyed: await window.run(batch, keyed) for keyed in order}
                speeds.append((got[True], got[False]))
                say(f"batch {batch}, pair {n + 1} of {pairs}: {got[True] / got[False]:.3f}")
            rows[str(batch)] = summary(speeds)
    finally:
        await server.close()
    return rows


def summary(speeds: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """``speeds``: tokens a second with and without, by pair."""
    table = np.array(speeds)
    logs = np.log(table[:, 0] / table[:, 1])
    random = np.random.default_rng(1)
    means = logs[random.integers(0, len(logs), (RESAMPLES, len(logs)))].mean(axis=1)
    low, high = np.exp(np.percentile(means, [2.5, 97.5]))
    return {
        "pairs": len(logs),
        "with_tok_s": round(float(np.median(table[:, 0])), 2),
        "without_tok_s": round(float(np.median(table[:, 1])), 2),
        "ratio": round(float(np.exp(logs.mean())), 4),
        "median_ratio": round(float(np.exp(np.median(logs))), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
    }


class _Window:
    """``run``: that many answers at once, each of ``most`` tokens; tokens a second."""

    def __init__(self, server: ModelServer, model: str, strong: StrongText, most: int) -> None:
        self._server, self._model, self._strong = server, model, strong
        self._most = most
        self._made = 0

    async def run(self, batch: int, keyed: bool) -> float:
        asked = [self._asked(n, keyed) for n in range(batch)]
        began = time.perf_counter()
        counts = await asyncio.gather(*map(self._tokens, asked))
        return sum(counts) / (time.perf_counter() - began)

    def _asked(self, n: int, keyed: bool) -> Asked:
        prompt = self._strong.chat.render([{"role": "user", "content": PROMPTS[n % len(PROMPTS)]}])
        self._made += 1
        key = hashlib.sha256(self._made.to_bytes(8, "big")).digest()
        asked = Asked(tuple(prompt), self._most, {"ignore_eos": True})
        return replace(asked, key=key) if keyed else asked

    async def _tokens(self, asked: Asked) -> int:
        reader = CompletionReader(asked, self._strong.tokenizer, max_bytes=1 << 20)
        body = asked.body(self._model)
        async for _ in self._server.events(
            "/completions", body, reader, line_bytes=asked.line_bytes
        ):
            pass
        return len(reader.tokens)
