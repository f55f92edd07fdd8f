"""Real servers for end-to-end tests: a scripted strong model and a counting wire.

Both run on loopback in a thread of the test's process, with their own event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

from aiohttp import web

T = TypeVar("T")
Piece = str | dict[str, Any]


class Refusal(NamedTuple):
    """Instead of an answer."""

    status: int
    text: str


HOLD = "\x00hold"


class LoopThread:
    """An event loop in a thread; ``call`` runs a coroutine there and waits for it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T], timeout_s: float = 30.0) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout_s)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


class ScriptedModel:
    """An OpenAI-compatible server that answers what the test told it to.

    ``script(body)`` gives the pieces, one chunk each: text, or a whole delta; or
    a ``Refusal``. ``delay_s`` between
    pieces.
    A piece that is ``HOLD`` is not sent: the answer waits there until ``released`` is set.
    ``seen`` holds every request body, ``running`` the answers being streamed right now.
    """

    def __init__(
        self, script: Callable[[dict[str, Any]], Sequence[Piece] | Refusal], delay_s: float = 0.0
    ) -> None:
        self.script = script
        self.delay_s = delay_s
        self.released = threading.Event()
        self.seen: list[dict[str, Any]] = []
        self.running = 0
        self._thread = LoopThread()
        self.port = self._thread.call(self._start())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stop(self) -> None:
        self._thread.call(self._runner.cleanup())
        self._thread.stop()

    def go(self) -> None:
        """Down: nobody listens there, and open answers end."""
        self._thread.call(self._runner.cleanup())

    def return_at(self, port: int) -> None:
        self._thread.call(self._start(port))

    async def _start(self, at: int = 0) -> int:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", at)
        await site.start()
        port: int = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        return port

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(body)
        pieces = self.script(body)
        if isinstance(pieces, Refusal):
            return web.Response(status=pieces.status, text=pieces.text)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.running += 1
        try:
            for piece in pieces:
                if piece == HOLD:
                    while not self.released.is_set():
                        await asyncio.sleep(0.02)
                    continue
                delta = piece if isinstance(piece, dict) else {"content": piece}
                await response.write(_chunk(delta, None))
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
            await response.write(_chunk({}, "stop"))
            await response.write(b"data: [DONE]\n\n")
        finally:
            self.running -= 1
        return response


def _chunk(delta: dict[str, Any], finish: str | None) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


class CountingWire:
    """A TCP proxy that counts what reaches the dialling side: the edge's socket.

    ``outward_bytes`` is what the edge received, over all connections of the wire's life.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.outward_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = LoopThread()
        self.port = self._thread.call(self._start())

    def stop(self) -> None:
        self._thread.call(self._close())
        self._thread.stop()

    async def _start(self) -> int:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._copy(reader, far_writer, counted=False))
                    group.create_task(self._copy(far_reader, writer, counted=True))
            finally:
                far_writer.close()
                writer.close()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if counted:
                    self.outward_bytes += len(data)
                writer.write(data)
                await writer.drain()
        writer.close()
