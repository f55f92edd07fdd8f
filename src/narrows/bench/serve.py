"""The whole path against the strong model alone, same prompts, same machine, same run.

*Direct* drives the built-in backend in this process; *path* drives the API of a deployment of
real processes (witness, enclave, gate, edge) made for the run. First-token times are those of
answers one after another; throughput is measured at each concurrency.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from narrows.coding.events import Tokens
from narrows.deploy.local import Flags, LocalDeployment, prepare_models
from narrows.deploy.supervise import Supervisor
from narrows.enclave.backend import Backend, BackendRequest
from narrows.enclave.models import make_backend

BUDGET_BYTES = 1_000_000_000
PROMPTS = (
    "Explain why the sky is blue in two sentences.",
    "Write a short letter to a landlord about a broken window.",
    "What is the difference between a list and a tuple in Python?",
    "Give me three tips for growing tomatoes on a balcony.",
    "Summarise the water cycle for a child.",
    "How do I politely decline a meeting?",
    "Name the planets of the solar system and one fact about each.",
    "Describe a walk along a river in autumn.",
)


@dataclass(frozen=True)
class Sample:
    """One answer: seconds to its first token, and how many tokens it had."""

    first_s: float
    tokens: int


Ask = Callable[[int, int], Awaitable[Sample]]


def request_body(index: int, max_tokens: int) -> dict[str, Any]:
    """The ``index``-th request; the same for both ways."""
    return {
        "messages": [{"role": "user", "content": PROMPTS[index % len(PROMPTS)]}],
        "max_tokens": max_tokens,
        "temperature": 1.0,
    }


async def measure(
    ask: Ask, requests: int, max_tokens: int, levels: Sequence[int]
) -> dict[str, Any]:
    """First-token percentiles one by one, then tokens/s at each level of concurrency."""
    await ask(0, 4)  # warm: kernels, pools, connections
    samples = [await ask(index, max_tokens) for index in range(requests)]
    firsts = sorted(sample.first_s * 1000 for sample in samples)
    result: dict[str, Any] = {
        "first_token_p50_ms": statistics.median(firsts),
        "first_token_p99_ms": firsts[min(len(firsts) - 1, int(len(firsts) * 0.99))],
        "tokens_per_s": {},
        "first_token_under_load_p50_ms": {},
    }
    for level in levels:
        begin = time.monotonic()
        many = await asyncio.gather(*(ask(index, max_tokens) for index in range(level)))
        seconds = time.monotonic() - begin
        result["tokens_per_s"][str(level)] = sum(s.tokens for s in many) / seconds
        result["first_token_under_load_p50_ms"][str(level)] = 1000 * statistics.median(
            s.first_s for s in many
        )
    return result


async def direct(backend: Backend, requests: int, max_tokens: int, levels: Sequence[int]) -> Any:
    """The strong model alone."""

    async def ask(index: int, limit: int) -> Sample:
        begin = time.monotonic()
        first, tokens = 0.0, 0
        key = index.to_bytes(32, "big")
        async for event in backend.generate(BackendRequest(request_body(index, limit), key)):
            if isinstance(event, Tokens):
                first = first or time.monotonic() - begin
                tokens += len(event.ids)
        return Sample(first, tokens)

    try:
        return await measure(ask, requests, max_tokens, levels)
    finally:
        await backend.close()


async def path(port: int, model: str, requests: int, max_tokens: int, levels: Sequence[int]) -> Any:
    """The same through edge, gate and enclave."""
    url = f"http://127.0.0.1:{port}/v1/chat/completions"

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=900)
    ) as session:

        async def ask(index: int, limit: int) -> Sample:
            extra = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
            begin = time.monotonic()
            first, tokens = 0.0, 0
            async with session.post(url, json=request_body(index, limit) | extra) as response:
                response.raise_for_status()
                async for line in response.content:
                    if not line.startswith(b"data: {"):
                        continue
                    chunk = json.loads(line[6:])
                    if any(choice["delta"].get("content") for choice in chunk["choices"]):
                        first = first or time.monotonic() - begin
                    tokens += (chunk.get("usage") or {}).get("completion_tokens", 0)
            return Sample(first, tokens)

        return await measure(ask, requests, max_tokens, levels)


def run(requests: int, max_tokens: int, levels: Sequence[int], config: Path | None) -> Any:
    """Both measurements; see ``narrows bench serve``."""
    with tempfile.TemporaryDirectory(prefix="narrows-bench-") as folder:
        deployment = LocalDeployment.prepare(
            config, Path(folder), Flags(budget_bytes=BUDGET_BYTES, port=0)
        )
        prepare_models(deployment.config)
        backend = make_backend(deployment.config.enclave)
        alone = asyncio.run(direct(backend, requests, max_tokens, levels))
        del backend
        supervisor = Supervisor(Path(folder) / "log")
        try:
            port = deployment.start(supervisor)
            name = deployment.config.edge.model_name
            through = asyncio.run(path(port, name, requests, max_tokens, levels))
        finally:
            supervisor.stop()
    return {
        "requests": requests,
        "max_tokens": max_tokens,
        "direct": alone,
        "path": through,
        "added_first_token_p50_ms": through["first_token_p50_ms"] - alone["first_token_p50_ms"],
        "added_first_token_p99_ms": through["first_token_p99_ms"] - alone["first_token_p99_ms"],
    }
