"""Bits a token of a server's answers through the enclave's own link, and how sure they are.

The enclave runs in this process on a loopback port. The far end decodes what it sends, so that
a wrong answer fails the measurement. All prompts are asked at once on one link from cold: its
bytes hold the signalling, the checks and what the link does not know yet. An answer's bits are
its tokens' and its share of everything else, by their bits.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from narrows.bench.coupled import QUESTIONS, SampledAnswer, divergence, rows_of
from narrows.coding.events import (
    AnswerSpec,
    Coding,
    Failed,
    Finished,
    NoiseFamily,
    Opened,
    Text,
    Tokens,
    Usage,
)
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.options import LinkOptions
from narrows.coding.spec import answer_spec
from narrows.coding.tokens.calibrate import Calibration
from narrows.coding.tokens.code import TokenCode
from narrows.enclave.config import EnclaveConfig, UpstreamConfig
from narrows.enclave.models import make_backend
from narrows.enclave.server import EnclaveServer
from narrows.enclave.tokens.strong import StrongText
from narrows.errors import PeerError
from narrows.models.api import TokenModel
from narrows.models.registry import load_model
from narrows.models.shelf.shelf import Shelf
from narrows.wire.messages import PROTOCOL, Greeting, Hello, Request, WeakOffer, encode_frame

WAYS: Mapping[str, dict[str, Any]] = {
    "coupled": {"tokens": "required"},
    "ids": {"tokens": "required", "noise": "none"},
    "text": {"tokens": "off"},
}
RESAMPLES = 2000
_WAIT_S = 7200.0


@dataclass
class Crossed:
    """What one way took. By answer: ``bits`` of its tokens alone, ``tokens`` of the strong
    model, ``utf8_bytes``. ``link_bytes``: everything that the enclave sent."""

    bits: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    utf8_bytes: list[int] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)
    link_bytes: int = 0

    def ratio(self, picked: np.ndarray) -> float:
        """Bits a token of the ``picked`` answers, everything included."""
        share = 8 * self.link_bytes / sum(self.bits)
        return share * float(np.take(self.bits, picked).sum() / np.take(self.tokens, picked).sum())


class _Counting(TokenCode):
    """Adds up what an answer's tokens take, under its key: a link opens answers in any order."""

    def __init__(
        self,
        bits: dict[bytes, float],
        spec: AnswerSpec,
        coding: Coding,
        vocab_size: int,
        calibration: Calibration,
    ) -> None:
        super().__init__(spec, coding, vocab_size, calibration)
        self._bits, self._whose = bits, spec.noise_key

    def update(self, token: int) -> None:
        self._bits[self._whose] = self._bits.get(self._whose, 0.0) + self.cost_bits(token)
        super().update(token)


def keys(count: int) -> list[bytes]:
    """The same ones in every run."""
    return [hashlib.sha256(b"narrows bench engines" + bytes([n])).digest() for n in range(count)]


def cross(upstream: UpstreamConfig, weak: str, way: str, count: int, max_tokens: int) -> Crossed:
    """``count`` answers over one link. PeerError where one fails, or crosses another way."""
    config = EnclaveConfig(
        listen="127.0.0.1:0", upstream=replace(upstream, **WAYS[way]), weak=(weak,)
    )
    inside, outside = load_model(weak), load_model(weak)
    return asyncio.run(_cross(config, (inside, outside), way, count, max_tokens))


async def _cross(
    config: EnclaveConfig, models: tuple[TokenModel, TokenModel], way: str, count: int, most: int
) -> Crossed:
    inside, outside = models
    shelf = Shelf.of([inside])
    enclave = EnclaveServer(config, make_backend(config, shelf), shelf)
    try:
        port = await enclave.start()
        async with asyncio.timeout(_WAIT_S):
            return await _decoded(port, outside, way, count, most)
    finally:
        await enclave.stop()


async def _decoded(port: int, model: TokenModel, way: str, count: int, most: int) -> Crossed:
    bits: dict[bytes, float] = {}
    options = LinkOptions(noise=int(max(NoiseFamily)))
    decoder = LinkDecoder(model, options, partial(_Counting, bits))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    offer = WeakOffer(model.digest.hex(), model.numerics.hex())
    writer.write(encode_frame(Hello(PROTOCOL, [offer], options.to_wire())))
    events: list[list[Any]] = []
    result = Crossed()
    try:
        if await reader.readexactly(2) != bytes([Greeting.OK, 0]):
            raise PeerError("the enclave refused the link")
        for n, key in enumerate(keys(count)):
            body = {
                "messages": [{"role": "user", "content": QUESTIONS[n % len(QUESTIONS)]}],
                "max_tokens": most,
                "temperature": 1.0,
                "seed": n,
            }
            request = Request(f"{n:032x}", body, key.hex())
            decoder.request(answer_spec(request, model))
            writer.write(encode_frame(request))
            events.append([])
        while not all(row and isinstance(row[-1], Finished | Failed) for row in events):
            data = await reader.read(1 << 16)
            if not data:
                raise PeerError("the enclave closed the link")
            result.link_bytes += len(data)
            fresh = await asyncio.to_thread(decoder.feed, data)
            for number, event in fresh:
                events[number].append(event)
    finally:
        writer.close()
        decoder.close()
    for key, row in zip(keys(count), events, strict=True):
        _add(result, row, way, model, bits.get(key, 0.0))
    return result


def _add(result: Crossed, row: list[Any], way: str, model: TokenModel, bits: float) -> None:
    wanted = {"coupled": Coding.COUPLED, "ids": Coding.PLAIN, "text": Coding.TEXT}[way]
    opened = isinstance(row[0], Opened) and row[0].coding is wanted
    if not opened or isinstance(row[-1], Failed):
        raise PeerError(f"an answer crossed as {row[0]} and ended with {row[-1]}, not {way}")
    ids = [i for event in row if isinstance(event, Tokens) for i in event.ids]
    data = b"".join(event.data for event in row if isinstance(event, Text))
    said = next((event.completion_tokens for event in row if isinstance(event, Usage)), 0)
    result.bits.append(bits)
    result.tokens.append(max(1, said))
    result.ids.append(ids)
    result.utf8_bytes.append(len(data) + sum(len(model.tokenizer.token_bytes(i)) for i in ids))


def report(crossed: Mapping[str, Crossed]) -> dict[str, Any]:
    """Bits a token of each way, and coupled ÷ text, with 95 % intervals over answers."""
    random = np.random.default_rng(1)
    count = len(next(iter(crossed.values())).bits)
    draws = random.integers(0, count, (RESAMPLES, count))
    everyone = np.arange(count)
    rows: dict[str, Any] = {}
    spread: dict[str, np.ndarray] = {}
    for way, one in crossed.items():
        spread[way] = np.array([one.ratio(picked) for picked in draws])
        rows[way] = {
            "tokens": sum(one.tokens),
            "utf8_bytes": sum(one.utf8_bytes),
            "link_bytes": one.link_bytes,
            "bits_per_token": round(one.ratio(everyone), 4),
            "interval": _interval(spread[way]),
        }
    rows["coupled_over_text"] = {
        "ratio": round(rows["coupled"]["bits_per_token"] / rows["text"]["bits_per_token"], 4),
        "interval": _interval(spread["coupled"] / spread["text"]),
    }
    return rows


def _interval(values: np.ndarray) -> list[float]:
    return [round(float(edge), 4) for edge in np.percentile(values, [2.5, 97.5])]


def entropies(
    exact: str, weak: str, folder: Path, ids: Sequence[Sequence[int]]
) -> dict[str, float]:
    """H, CE and KL(strong || weak) over the tokens that the server sent, the strong model as the
    exact runtime has it."""
    strong, other = load_model(exact), load_model(weak)
    chat = StrongText(folder).chat
    sums = np.zeros(3)
    total = 0
    for n, tokens in enumerate(ids):
        if not tokens:
            continue
        prompt = chat.render([{"role": "user", "content": QUESTIONS[n % len(QUESTIONS)]}])
        answer = SampledAnswer(list(prompt), b"", list(tokens), [])
        answer.logits = [row.copy() for row in rows_of(strong, answer)]
        sums += np.array(divergence([answer], other)) * len(tokens)
        total += len(tokens)
    means = sums / max(1, total)
    return {name: round(float(x), 4) for name, x in zip(("H", "CE", "KL"), means, strict=True)}
