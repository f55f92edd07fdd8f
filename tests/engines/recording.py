"""HTTP between an enclave and a model server, kept to the byte: recorded live, played back.

A recording is gzip'd JSON: ``vllm`` (its version), ``exchanges`` (what was sent, what came back,
with the boundaries of its chunks) and ``answers`` (what the far end of the link decoded).
"""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web


@dataclass
class Exchange:
    """One request and its answer. ``chunks``: as HTTP cut it; text, since both sides speak JSON
    in UTF-8; as many as the enclave stayed for."""

    method: str
    path: str
    request: str
    status: int = 0
    content_type: str = ""
    chunks: list[str] = field(default_factory=list)


@dataclass
class Recording:
    vllm: str
    exchanges: list[Exchange]
    answers: list[dict[str, Any]]

    def save(self, path: Path) -> None:
        """Write it. The same recording is the same file."""
        data = json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":")).encode()
        path.write_bytes(gzip.compress(data, 9, mtime=0))

    @classmethod
    def load(cls, path: Path) -> Recording:
        raw = json.loads(gzip.decompress(path.read_bytes()))
        return cls(raw["vllm"], [Exchange(**row) for row in raw["exchanges"]], raw["answers"])


class Recorder:
    """Stands between an enclave and the server at ``url`` (which ends in ``/v1``) and keeps what
    passes. ``alter``: changes each request's body on its way, for a server that gets another."""

    def __init__(self, url: str, alter: Callable[[bytes], bytes] = lambda body: body) -> None:
        self._host = url.removesuffix("/v1")
        self._alter = alter
        self.exchanges: list[Exchange] = []

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        kept = Exchange(request.method, request.path, body.decode())
        self.exchanges.append(kept)
        names = ("Content-Type", "Accept", "Accept-Encoding")
        headers = {name: request.headers[name] for name in names if name in request.headers}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method,
                self._host + request.path,
                data=self._alter(body) or None,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=1800),
            ) as answer,
        ):
            kept.status, kept.content_type = answer.status, answer.headers["Content-Type"]
            out = await _begin(request, kept)
            part = b""
            async for data, ends in answer.content.iter_chunks():
                part += data
                if ends and part:
                    kept.chunks.append(part.decode())
                    await out.write(part)
                    part = b""
            if part:  # an answer with a length has no chunks
                kept.chunks.append(part.decode())
                await out.write(part)
        return out


class Player:
    """Answers each request that was recorded as it was then, once. ``unknown``: requests that
    are not in the recording, to the byte; ``left``: those that nobody has sent yet."""

    def __init__(self, exchanges: list[Exchange]) -> None:
        self.left = list(exchanges)
        self.unknown: list[Exchange] = []

    async def play(self, request: web.Request) -> web.StreamResponse:
        asked = Exchange(request.method, request.path, (await request.read()).decode())
        for at, kept in enumerate(self.left):
            same = (kept.method, kept.path, kept.request)
            if same == (asked.method, asked.path, asked.request):
                del self.left[at]
                break
        else:
            self.unknown.append(asked)
            return web.Response(status=500, text="no such request was recorded")
        out = await _begin(request, kept)
        with contextlib.suppress(ConnectionError):  # it may have read enough
            for chunk in kept.chunks:
                await out.write(chunk.encode())
        return out


async def _begin(request: web.Request, kept: Exchange) -> web.StreamResponse:
    out = web.StreamResponse(status=kept.status, headers={"Content-Type": kept.content_type})
    await out.prepare(request)
    return out


@contextlib.asynccontextmanager
async def listening(
    handle: Callable[[web.Request], Any],
) -> AsyncIterator[str]:
    """The URL, up to ``/v1``, where ``handle`` gets every request."""
    app = web.Application(client_max_size=16 << 20)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        await runner.cleanup()
