"""One link, seen from the enclave: requests in, one coded stream out.

    frames ──▶ _read ──▶ answer tasks ──events──▶ command list ──▶ codec thread ──▶ socket

Order is what both ends agree on, so everything that touches the encoder goes through one list
of commands, in order, and is run by the process's one codec thread together with the model
steps; the event loop never waits for a model. The list is bounded: while the gate takes no
bytes (budget spent, paced), ``drain`` holds the codec, the list fills, and the backends are
held in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from narrows.coding.cache_account import CacheAccount
from narrows.coding.events import Event, Failed, Failure, Finish, Finished
from narrows.coding.link.encoder import LinkEncoder
from narrows.coding.link.options import LinkOptions
from narrows.coding.spec import answer_spec
from narrows.enclave import feed
from narrows.enclave.backend import Backend, BackendRequest, stop_strings
from narrows.enclave.config import SessionConfig
from narrows.errors import LinkError, NarrowsError
from narrows.models.api import TokenModel
from narrows.models.shelf.shelf import Shelf, take_for
from narrows.wire.messages import (
    PROTOCOL,
    Cancel,
    FrameReader,
    Greeting,
    Hello,
    Message,
    Request,
)

log = logging.getLogger("narrows.enclave.session")

MAX_COMMANDS = 4096
MAX_COMMANDS_PER_TURN = 64  # requests are among them, whose prompts are cut into tokens
READ_BYTES = 1 << 16

Command = Callable[[LinkEncoder], None]


class LinkSession:
    """Serves one connection until it closes. ``shelf``: the weak models to choose from.
    ``accounts``: of their memory, by digest; one dictionary for all sessions of the shelf."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        backend: Backend,
        shelf: Shelf,
        codec: ThreadPoolExecutor,
        config: SessionConfig | None = None,
        accounts: dict[bytes, CacheAccount] | None = None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._backend = backend
        self._shelf = shelf
        self._codec = codec
        self._config = config or SessionConfig()
        self._accounts = {} if accounts is None else accounts
        self._frames = FrameReader()
        self._commands: list[Command] = []
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._answers: dict[int, asyncio.Task[None]] = {}
        self._requested = 0

    async def run(self) -> None:
        """Greet, then serve. Returns when the link is over; never raises for what the peer did."""
        try:
            async with asyncio.timeout(self._config.hello_timeout_s):
                hello, rest = await self._read_hello()
            chosen = await self._greet(hello)
            if chosen is None:
                return
            model, options = chosen
            try:
                await self._use(model, options, rest)
            finally:
                self._shelf.give(model)
        except TimeoutError:
            log.warning("no hello within %.0f s", self._config.hello_timeout_s)
        except (LinkError, OSError) as error:
            log.warning("link closed: %s", error)
        finally:
            for task in list(self._answers.values()):
                task.cancel()
            await asyncio.gather(*self._answers.values(), return_exceptions=True)
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    async def _read_hello(self) -> tuple[Hello, list[Message]]:
        messages: list[Message] = []
        while not messages:
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise LinkError("closed before a hello")
            messages = self._frames.feed(data)
        first = messages[0]
        if not isinstance(first, Hello):
            raise LinkError("the first message is no hello")
        return first, messages[1:]

    async def _use(self, model: TokenModel, options: LinkOptions, rest: list[Message]) -> None:
        for message in rest:
            self._handle(message, model)
        account = self._accounts.setdefault(model.digest, CacheAccount(model.cache_bytes))
        encoder = LinkEncoder(model, options, account=account)
        try:
            await self._serve(model, encoder)
        finally:
            # Behind whatever the codec still runs of it; waited for, since the model is then
            # given back.
            await asyncio.wait({asyncio.wrap_future(self._codec.submit(encoder.close))})

    async def _greet(self, hello: Hello) -> tuple[TokenModel, LinkOptions] | None:
        """Send the two bytes; the model (to be given back) and options to code with, or None
        when refused."""
        code, index = self._choose(hello)
        chosen: tuple[TokenModel, LinkOptions] | None = None
        if code is Greeting.OK:
            try:
                options = LinkOptions.from_wire(hello.options)
            except NarrowsError as error:
                log.warning("link refused: %s", error)
                code, index = Greeting.BAD_HELLO, 0
            else:
                digest = bytes.fromhex(hello.weak[index].digest)
                try:
                    chosen = await take_for(self._shelf, digest), options
                except NarrowsError as error:  # its file has gone since it was looked at
                    log.warning("link refused: %s", error)
                    code, index = Greeting.NO_COMMON_MODEL, 0
        self._writer.write(bytes([code, index]))
        if chosen is None:
            log.warning("link refused: %s", code.name)
        return chosen

    def _choose(self, hello: Hello) -> tuple[Greeting, int]:
        if hello.protocol != PROTOCOL:
            return Greeting.PROTOCOL_UNKNOWN, 0
        if not 1 <= len(hello.weak) <= 16:
            return Greeting.BAD_HELLO, 0
        for index, offer in enumerate(hello.weak):
            try:
                digest, numerics = bytes.fromhex(offer.digest), bytes.fromhex(offer.numerics)
            except ValueError:
                return Greeting.BAD_HELLO, 0
            own = self._shelf.find(digest)
            if own is not None:
                same = own.numerics == numerics
                return (Greeting.OK if same else Greeting.NUMERICS_DIFFER), index
        return Greeting.NO_COMMON_MODEL, 0

    async def _serve(self, model: TokenModel, encoder: LinkEncoder) -> None:
        reading = asyncio.create_task(self._read(model))
        coding = asyncio.create_task(self._code(encoder))
        try:
            await asyncio.wait({reading, coding}, return_when=asyncio.FIRST_COMPLETED)
            over = [task for task in (reading, coding) if task.done()]
        finally:
            for task in (reading, coding):
                task.cancel()
            await asyncio.gather(reading, coding, return_exceptions=True)
        for task in over:
            task.result()

    async def _read(self, model: TokenModel) -> None:
        while data := await self._reader.read(READ_BYTES):
            for message in self._frames.feed(data):
                self._handle(message, model)

    def _handle(self, message: Message, model: TokenModel) -> None:
        if isinstance(message, Request):
            if len(self._answers) >= self._config.max_answers:
                raise LinkError(f"more than {self._config.max_answers} answers at once")
            number = self._requested
            self._requested += 1
            request = message
            self._push(lambda encoder: _request(encoder, request, model, number))
            task = asyncio.create_task(self._answer(number, request, model))
            self._answers[number] = task
            task.add_done_callback(lambda _: self._answers.pop(number, None))
        elif isinstance(message, Cancel):
            if not 0 <= message.number < self._requested:
                raise LinkError("a cancel for an answer that was never requested")
            task_or_none = self._answers.get(message.number)
            if task_or_none is not None:
                task_or_none.cancel()
        else:
            raise LinkError("a second hello")

    def _push(self, command: Command) -> None:
        self._commands.append(command)
        self._wake.set()
        if len(self._commands) >= MAX_COMMANDS:
            self._room.clear()

    async def _answer(self, number: int, request: Request, model: TokenModel) -> None:
        """Run the backend for one answer. Whatever happens, the answer is ended on the link."""
        over = threading.Event()  # set in the codec thread: nothing of it is taken any more

        def deliver(event: Event) -> Command:
            def command(encoder: LinkEncoder) -> None:
                if not feed.deliver(encoder, number, event):
                    over.set()

            return command

        last: Finished | Failed = Failed(Failure.INTERNAL)
        try:
            tokenizer = self._backend.tokenizer
            foreign = tokenizer is not None and tokenizer.digest != model.tokenizer.digest
            stops = stop_strings(request.body)
            translate = feed.ToText(tokenizer, stops) if tokenizer is not None and foreign else None
            wanted = BackendRequest(
                request.body,
                bytes.fromhex(request.noise_key),
                tuple(request.resume),
                request.scope,
                model.tokenizer.digest,
            )
            async with contextlib.aclosing(self._backend.generate(wanted)) as events:
                async for raw in events:
                    for event in translate.events(raw) if translate else (raw,):
                        self._push(deliver(event))
                    await self._room.wait()
                    if over.is_set():
                        break
        except asyncio.CancelledError:
            last = Finished(Finish.CANCELLED)
            raise
        except Exception:  # a bug, or a body that no edge makes: its answer fails, no client hangs
            log.exception("an answer failed")
        finally:
            self._push(lambda encoder: feed.finish(encoder, number, last))

    async def _code(self, encoder: LinkEncoder) -> None:
        """Run commands and polls in the codec thread, write what they yield."""
        loop = asyncio.get_running_loop()
        while True:
            commands = self._commands[:MAX_COMMANDS_PER_TURN]
            del self._commands[:MAX_COMMANDS_PER_TURN]
            self._wake.clear()
            if len(self._commands) < MAX_COMMANDS:
                self._room.set()
            data, wait_ms = await loop.run_in_executor(self._codec, _turn, encoder, commands)
            while encoder.failed_here:
                if task := self._answers.get(encoder.failed_here.pop()):
                    task.cancel()
            if data:
                self._writer.write(data)
                await self._writer.drain()
            if self._commands:
                continue
            timeout = None if wait_ms is None else wait_ms / 1000
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()


def _request(encoder: LinkEncoder, request: Request, model: TokenModel, number: int) -> None:
    if encoder.request(answer_spec(request, model)) != number:
        raise LinkError("the encoder counts answers otherwise")


def _turn(encoder: LinkEncoder, commands: list[Command]) -> tuple[bytes, float | None]:
    """In the codec thread, which all links share: commands, one batch of model steps; bytes and
    ms to the next call."""
    for command in commands:
        command(encoder)
    now_ms = time.monotonic() * 1000
    data = encoder.step(now_ms)
    later = time.monotonic() * 1000
    due = encoder.next_poll_ms(later)
    return data, None if due is None else max(0.0, due - later)
