"""An edge and a scripted enclave, both on one background event loop, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import openai

from edge.standin import FlatModel, LineDecoder, encode_event
from narrows.coding.events import Coding, Event, Finish, Finished, Opened, Text, Tokens
from narrows.edge.config import EdgeConfig
from narrows.edge.serve import serve
from narrows.wire.messages import Cancel, FrameReader, Greeting, Hello, Request

MODEL = "test-model"


def native(text: str, reason: Finish = Finish.STOP, size: int = 7) -> list[Event]:
    """An answer of byte tokens, ``size`` at a time."""
    data = text.encode("utf-8", "surrogatepass")
    pieces = [Tokens(tuple(data[at : at + size])) for at in range(0, len(data), size)]
    return [Opened(Coding.PLAIN), *pieces, Finished(reason)]


def foreign(text: str, size: int = 7) -> list[Event]:
    data = text.encode("utf-8", "surrogatepass")
    pieces = [Text(data[at : at + size]) for at in range(0, len(data), size)]
    return [Opened(Coding.TEXT), *pieces, Finished(Finish.STOP)]


class Hang:
    """A step of a script: wait until the answer is cancelled, then end it so."""


class Drop:
    """A step of a script: close the connection."""


class Until:
    """A step of a script: wait until ``condition()`` holds."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self.condition = condition

    async def wait(self) -> None:
        while not self.condition():
            await asyncio.sleep(0.005)


Script = Callable[[Request], list[object]]


class FakeEnclave:
    """Enclave and gate in one: takes the edge's connection, plays a script for each request.
    Steps: events, raw bytes, seconds to sleep, ``Hang``, ``Drop``."""

    def __init__(self) -> None:
        self.script: Script = lambda request: native("hello")
        self.greeting = bytes([Greeting.OK, 0])
        self.hellos: list[Hello] = []
        self.requests: list[Request] = []
        self.cancels: list[int] = []
        self.last_number = -1
        self.sent_bytes = 0
        self.connections: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self.connections:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        frames, tasks = FrameReader(), []
        cancelled: dict[int, asyncio.Event] = {}
        count = 0
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                for message in frames.feed(data):
                    if isinstance(message, Hello):
                        self.hellos.append(message)
                        self._write(writer, self.greeting)
                    elif isinstance(message, Request):
                        self.requests.append(message)
                        self.last_number = count
                        cancelled[count] = asyncio.Event()
                        play = self._play(writer, count, message, cancelled[count])
                        tasks.append(asyncio.create_task(play))
                        count += 1
                    elif isinstance(message, Cancel):
                        self.cancels.append(message.number)
                        cancelled[message.number].set()
        for task in tasks:
            task.cancel()

    def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        self.sent_bytes += len(data)
        writer.write(data)

    async def _play(
        self,
        writer: asyncio.StreamWriter,
        number: int,
        request: Request,
        cancelled: asyncio.Event,
    ) -> None:
        for step in self.script(request):
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, Hang):
                await cancelled.wait()
            elif isinstance(step, Until):
                await step.wait()
            elif isinstance(step, Drop):
                writer.transport.abort()
                return
            elif isinstance(step, bytes):
                self._write(writer, step)
            else:
                self._write(writer, encode_event(number, step))
            if cancelled.is_set():
                self._write(writer, encode_event(number, Finished(Finish.CANCELLED)))
                return
            await writer.drain()


class Rig:
    """``with Rig(tmp_path) as rig``: an edge at ``rig.url``, its enclave at ``rig.enclave``."""

    def __init__(
        self,
        state: Path,
        connect: bool = True,
        real: bool = False,
        models: object = None,
        **settings: object,
    ) -> None:
        self.state = state
        self._models = models if models is not None else [FlatModel()]
        self.enclave = FakeEnclave()
        self._connect = connect
        self._settings = settings
        self._make_decoder = None if real else lambda model, options: LineDecoder()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._ready = threading.Event()
        self.port = 0

    def __enter__(self) -> Rig:
        self._thread.start()
        try:
            self._start()
        except BaseException:
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise
        return self

    def _start(self) -> None:
        if self._connect:
            self.call(self.enclave.start())
        gate_port = self.enclave.port or 1
        usual = {"listen_port": 0, "gate_port": gate_port, "model_name": MODEL}
        usual["link_wait_s"] = 30.0  # a busy machine is no link that is down
        usual["probe"] = False  # a script answers what the test asks, and nothing else
        config = EdgeConfig(**usual | self._settings)
        self._edge = asyncio.run_coroutine_threadsafe(
            serve(config, self.state, self._models, self._on_ready, self._make_decoder),
            self._loop,
        )
        while not self._ready.wait(0.01):
            if self._edge.done():
                self._edge.result()

    def _on_ready(self, port: int) -> None:
        self.port = port
        self._ready.set()

    def __exit__(self, *_: object) -> None:
        self._edge.cancel()
        with contextlib.suppress(BaseException):
            self._edge.result(10)
        self.call(self._settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _settle(self) -> None:
        # Cancelling the future of another thread does not wait for the coroutine's finally.
        await self.enclave.stop()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(others, timeout=8) if others else None

    def call(self, coroutine):
        """Run a coroutine on the rig's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    @property
    def url(self) -> str:
        scheme = "https" if self._settings.get("https") else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    def client(self, **options: object) -> openai.OpenAI:
        options = {"api_key": "none", "max_retries": 0, "timeout": 60} | options
        return openai.OpenAI(base_url=f"{self.url}/v1", **options)

    def ask(self, text: str = "hi", **options: object):
        """A whole answer through the openai package."""
        with self.client() as client:
            return client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": text}], **options
            )

    def post(self, body: object, path: str = "/v1/chat/completions", **options: object):
        """Raw HTTP: bytes as they are, anything else as JSON."""
        where = {"content": body} if isinstance(body, bytes) else {"json": body}
        return httpx2.post(self.url + path, **{"timeout": 60} | where | options)

    def get(self, path: str, **options: object):
        return httpx2.get(self.url + path, timeout=60, **options)


def chat(**fields: object) -> dict[str, object]:
    """The least request, with ``fields`` over it."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]} | fields


def bearer(key: str) -> dict[str, str]:
    """The header of an API key."""
    return {"authorization": f"Bearer {key}"}


@contextlib.contextmanager
def running_enclave() -> Iterator[FakeEnclave]:
    """One for an edge in a process of its own, on a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    found = FakeEnclave()
    asyncio.run_coroutine_threadsafe(found.start(), loop).result(10)
    yield found
    asyncio.run_coroutine_threadsafe(found.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def mutations(good: object, junk: list[object], count: int = 2000) -> Iterator[object]:
    """``good`` with parts left out or replaced at random. Prints its seed."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    others = [None, True, 7, -1.5, "x", [], {}, [[]], ["x"], *junk]

    def mutate(value):
        if rng.random() < 0.06:
            return rng.choice(others)
        if isinstance(value, dict):
            return {key: mutate(inner) for key, inner in value.items() if rng.random() > 0.03}
        return [mutate(inner) for inner in value] if isinstance(value, list) else value

    for _ in range(count):
        yield mutate(good)
