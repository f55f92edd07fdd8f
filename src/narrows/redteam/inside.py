"""The hostile inside: an event loop in a thread of its own, in the enclave's namespace if there
is one. Two ports, as an enclave has: *coded*, served by the real session with a thief for a
backend, and *raw*, on which an attack says what it likes when it likes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from narrows.coding.cache_account import CacheAccount
from narrows.coding.events import Coding, Event, Failed, Finish, Finished, Opened, Tokens
from narrows.enclave.backend import BackendRequest
from narrows.enclave.session import LinkSession
from narrows.errors import PeerError
from narrows.models.bytemodel import ByteModel
from narrows.models.shelf.shelf import Shelf

START_S = 30.0
CALL_S = 120.0
T = TypeVar("T")


class CutLink:
    """In a script: the link that the answer is on is reset."""


Step = Event | float | CutLink
Script = Callable[[BackendRequest], Iterable[Step]]
"""What the thief says to a request; a number is seconds of silence."""
Answers = Callable[[BackendRequest], AsyncGenerator[Event, None]]
RawHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def honest(request: BackendRequest) -> Iterable[Step]:
    """The cover: a short answer."""
    return [Opened(Coding.PLAIN), Tokens(tuple(b"ok.")), Finished(Finish.STOP)]


async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes everything and says nothing."""
    while await reader.read(1 << 16):
        pass


class HostileInside:
    """``addresses``: (host, port) of the coded and the raw port; port 0 is any free one. ``enter``
    is called in the thread first."""

    def __init__(
        self,
        addresses: tuple[tuple[str, int], tuple[str, int]],
        enter: Callable[[], None] | None = None,
    ) -> None:
        self.script: Script = honest
        self.answers: Answers | None = None  # in the place of the script, where an attack waits
        self.raw: RawHandler = deaf
        self.model = ByteModel()
        self.ports = (addresses[0][1], addresses[1][1])
        self._addresses = addresses
        self._enter = enter
        self._shelf = Shelf.of([self.model])
        self._accounts: dict[bytes, CacheAccount] = {}
        self._codec = ThreadPoolExecutor(1, thread_name_prefix="thief-codec")
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._servers: list[asyncio.Server | None] = [None, None]
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="thief", daemon=True)

    # life -----------------------------------------------------------------------------

    def start(self) -> None:
        """Listen. PeerError where that fails."""
        self._thread.start()
        if not self._ready.wait(START_S) or self._failure is not None:
            raise PeerError(f"the hostile enclave does not listen: {self._failure}")

    def stop(self) -> None:
        if self._thread.is_alive():
            with contextlib.suppress(TimeoutError):  # whatever an attack left behind
                self.call(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
        self._codec.shutdown(wait=False, cancel_futures=True)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it inside, from outside."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CALL_S)

    def listen(self, which: int, on: bool) -> None:
        """Take connections on a port, or refuse them."""
        self.call(self._listen(which) if on else self._close(which))

    def cut(self) -> None:
        """Reset every link."""
        self._loop.call_soon_threadsafe(self._cut)

    def reset(self) -> None:
        """Honest again, and listening, for the next attack."""
        self.script, self.raw, self.answers = honest, deaf, None
        for which in (0, 1):
            self.listen(which, True)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            if self._enter is not None:
                self._enter()
            for which in (0, 1):
                self._loop.run_until_complete(self._listen(which))
        except OSError as error:
            self._failure = error
            self._ready.set()
            return
        self._ready.set()
        self._loop.run_forever()

    async def _listen(self, which: int) -> None:
        if self._servers[which] is not None:
            return
        host = self._addresses[which][0]
        serve = (self._coded, self._serve_raw)[which]
        server = await asyncio.start_server(serve, host, self.ports[which], limit=1 << 20)
        self._servers[which] = server
        port = server.sockets[0].getsockname()[1]
        self.ports = (port, self.ports[1]) if which == 0 else (self.ports[0], port)

    async def _close(self, which: int) -> None:
        server, self._servers[which] = self._servers[which], None
        if server is not None:
            server.close()

    async def _end(self) -> None:
        for which in (0, 1):
            await self._close(which)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cut(self) -> None:
        for writer in list(self._writers):
            reset(writer)

    # ports ----------------------------------------------------------------------------

    async def _coded(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = LinkSession(
            reader, writer, self, self._shelf, self._codec, accounts=self._accounts
        )
        await self._held(writer, session.run())

    async def _serve_raw(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._held(writer, self.raw(reader, writer))

    async def _held(self, writer: asyncio.StreamWriter, work: Awaitable[None]) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await work
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    # as a Backend ---------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        return self.model.tokenizer

    async def generate(self, request: BackendRequest) -> AsyncGenerator[Event, None]:
        if self.answers is not None:
            async for event in self.answers(request):
                yield event
            return
        ended = False
        for step in self.script(request):
            if isinstance(step, float | int):
                await asyncio.sleep(step)
            elif isinstance(step, CutLink):
                self._cut()
            else:
                ended = isinstance(step, Finished | Failed)
                yield step
        if not ended:
            yield Finished(Finish.STOP)

    async def close(self) -> None:
        """Nothing behind it."""


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
