"""``narrows bench engines``: the parts of its report."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from narrows.bench.coupled import five_bit_file, generate
from narrows.bench.engines.link import WAYS, Crossed, cross, entropies, report
from narrows.bench.engines.speed import failing
from narrows.enclave.config import UpstreamConfig
from narrows.enclave.modelserver import ModelServer
from narrows.errors import InputError
from narrows.models.registry import load_model

REACH_S = 30.0
NEAR = "near"
BUILT_IN = "smollm2-135m"
_ONE = 65536
_SEARCH_TOKENS = 50  # an answer: fewer do not tell one rounding's divergence from another's

Say = Callable[[str], None]


def reach(upstream: UpstreamConfig) -> None:
    """PeerError where the server does not answer, or not as a model server does."""
    asyncio.run(_reach(upstream))


async def _reach(upstream: UpstreamConfig) -> None:
    server = ModelServer(upstream)
    with failing(upstream):
        try:
            async with asyncio.timeout(REACH_S):
                await server.ask("/models")
        finally:
            await server.close()


def bits(
    upstream: UpstreamConfig, weak: str, exact: str, count: int, tokens: int, say: Say
) -> dict[str, Any]:
    """What ``count`` answers of ``tokens`` take on the link, each way. ``weak``: ``NEAR`` is a
    rounding of the built-in strong model. ``exact``: the model that the server serves, as the
    exact runtime has it, for H, CE and KL; empty for none. Raises NarrowsError."""
    if upstream.folder is None:
        raise InputError("the model's folder is needed", "give --folder")
    with tempfile.TemporaryDirectory() as folder:
        path = weak
        if weak == NEAR:
            say("rounding the built-in model")
            answers = generate(load_model(BUILT_IN), _SEARCH_TOKENS, _ONE)
            path = str(five_bit_file(answers, Path(folder), say))
        crossed: dict[str, Crossed] = {}
        for way in WAYS:
            say(f"{count} answers, {way}")
            crossed[way] = cross(upstream, path, way, count, tokens)
        result: dict[str, Any] = {"weak": load_model(path).name} | report(crossed)
        if exact:
            say("entropies")
            result |= entropies(exact, path, upstream.folder, crossed["coupled"].ids)
    return result
