"""Tokens a second with a key against without one, on one server that has the plugin.

A pair is two windows, one with keys and one without, in alternating order and close together:
what else the machine does falls on both alike, and the ratio of a pair is free of it but for
what changes within seconds. Reported is the geometric mean of the pairs' ratios, with a 95 %
bootstrap interval over pairs.

Where the server's process is on this machine, the processor seconds that it and its children
take are compared as well: on a busy machine they say more than the clock.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from narrows.bench.coupled import QUESTIONS
from narrows.enclave.chunks import ServerError
from narrows.enclave.config import UpstreamConfig
from narrows.enclave.modelserver import ModelServer
from narrows.enclave.sse import Malformed
from narrows.enclave.tokens.completion import Asked, CompletionReader
from narrows.enclave.tokens.strong import StrongText
from narrows.errors import InputError, PeerError

RESAMPLES = 4000
Say = Callable[[str], None]


def measure(
    upstream: UpstreamConfig,
    batches: Sequence[int],
    pairs: int,
    max_tokens: int,
    say: Say,
    pid: int | None = None,
) -> dict[str, Any]:
    """Each batch size's ratio. ``pid``: the server's process. The server has the plugin: a seed's
    noise costs it nothing. Raises ``PeerError`` where the server fails."""
    if upstream.folder is None:
        raise InputError("the model's folder is needed", "give --folder")
    strong = StrongText(upstream.folder)
    with failing(upstream):
        return asyncio.run(_measure(upstream, strong, batches, pairs, max_tokens, say, pid))


@contextmanager
def failing(upstream: UpstreamConfig) -> Iterator[None]:
    """What a request to the server raises, as ``PeerError``."""
    try:
        yield
    except (Malformed, TimeoutError, ServerError, aiohttp.ClientError, OSError) as error:
        what = str(error)[:200] or type(error).__name__
        raise PeerError(
            f"the model server at {upstream.url} fails: {what}", "is that its URL, with /v1?"
        ) from error


async def _measure(
    upstream: UpstreamConfig,
    strong: StrongText,
    batches: Sequence[int],
    pairs: int,
    most: int,
    say: Say,
    pid: int | None,
) -> dict[str, Any]:
    server = ModelServer(upstream)
    window = _Window(server, upstream.model, strong, most, pid)
    rows: dict[str, Any] = {}
    try:
        for batch in batches:
            for keyed in (True, False):  # compiled, and the prompts read
                await window.run(batch, keyed)
            rates: list[dict[bool, tuple[float, float]]] = []
            for n in range(pairs):
                order = (True, False) if n % 2 else (False, True)
                rates.append({keyed: await window.run(batch, keyed) for keyed in order})
                ratio = rates[-1][True][0] / rates[-1][False][0]
                say(f"batch {batch}, pair {n + 1} of {pairs}: {ratio:.3f}")
            row = summary([(pair[True][0], pair[False][0]) for pair in rates])
            if pid is not None:
                row["processor"] = summary([(pair[True][1], pair[False][1]) for pair in rates])
            rows[str(batch)] = row
    finally:
        await server.close()
    return rows


def processor_s(pid: int) -> float:
    """Processor seconds of a process and all that it has started and that live. InputError:
    there is none, or it has not run."""
    spent: dict[int, tuple[int, int]] = {}  # parent, ticks
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        spent[int(path.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    if pid not in spent:
        raise InputError(f"there is no process {pid} on this machine", "give the server's --pid")
    family = {pid}
    while more := {one for one, (parent, _) in spent.items() if parent in family} - family:
        family |= more
    return sum(spent[one][1] for one in family) / os.sysconf("SC_CLK_TCK")


def summary(speeds: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """``speeds``: tokens a second with and without keys, by pair."""
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
    """``run``: that many answers at once, each of ``most`` tokens; tokens by the clock's second
    and by the server's processor second."""

    def __init__(
        self, server: ModelServer, model: str, strong: StrongText, most: int, pid: int | None
    ) -> None:
        self._server, self._model, self._strong = server, model, strong
        self._most, self._pid = most, pid
        self._made = 0

    async def run(self, batch: int, keyed: bool) -> tuple[float, float]:
        asked = [self._asked(n, keyed) for n in range(batch)]
        began, spent = time.perf_counter(), self._spent()
        tokens = sum(await asyncio.gather(*map(self._tokens, asked)))
        took_s = time.perf_counter() - began
        return tokens / took_s, tokens / max(0.01, self._spent() - spent)

    def _spent(self) -> float:
        return 0.0 if self._pid is None else processor_s(self._pid)

    def _asked(self, n: int, keyed: bool) -> Asked:
        prompt = self._strong.chat.render(
            [{"role": "user", "content": QUESTIONS[n % len(QUESTIONS)]}]
        )
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
