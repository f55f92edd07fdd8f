"""The enclave's side of a link over a real socket, decoded by a real link decoder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from narrows.coding.events import (
    Coding,
    Event,
    Failed,
    Failure,
    Finish,
    Finished,
    Opened,
    Text,
    Usage,
)
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.options import LinkOptions
from narrows.coding.spec import answer_spec
from narrows.enclave.backend import BackendRequest
from narrows.enclave.config import EnclaveConfig
from narrows.enclave.server import EnclaveServer
from narrows.models.api import Tokenizer, TokenModel
from narrows.models.bytemodel import ByteModel
from narrows.wire.messages import (
    PROTOCOL,
    Cancel,
    Greeting,
    Hello,
    Message,
    Request,
    WeakOffer,
    encode_frame,
)

OPTIONS = LinkOptions(max_hold_ms=20, round_hold_ms=0)


class FakeBackend:
    """Answers with the last message's text, or as its first word says."""

    def __init__(self) -> None:
        self.running = 0

    @property
    def tokenizer(self) -> Tokenizer | None:
        return None

    async def close(self) -> None:
        """Nothing to close."""

    async def generate(self, request: BackendRequest) -> AsyncGenerator[Event, None]:
        self.running += 1
        try:
            text = request.body["messages"][-1]["content"]
            yield Opened(Coding.TEXT)
            while text == "endless":
                yield Text(b"tick ")
                await asyncio.sleep(0.005)
            if text == "fail":
                yield Failed(Failure.UPSTREAM_BROKE)
                return
            yield Text(text.encode())
            if text == "unended":
                return
            yield Usage(3, len(text))
            yield Finished(Finish.STOP)
        finally:
            self.running -= 1


class Edge:
    """The far end of one link, as simple as can be."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        model: TokenModel | None = None,
    ) -> None:
        self.reader, self.writer = reader, writer
        self.model = model or ByteModel()
        self.decoder = LinkDecoder(self.model, OPTIONS)
        self.events: dict[int, list[Event]] = {}

    def send(self, *messages: Message) -> None:
        for message in messages:
            if isinstance(message, Request):
                self.events[self.decoder.request(answer_spec(message, self.model))] = []
            self.writer.write(encode_frame(message))

    def hello(self, digest: bytes | None = None, numerics: bytes | None = None) -> Hello:
        offer = WeakOffer(
            (digest or self.model.digest).hex(), (numerics or self.model.numerics).hex()
        )
        return Hello(PROTOCOL, [offer], OPTIONS.to_wire())

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(120):
            while not done():
                data = await self.reader.read(4096)
                assert data, "the enclave closed the link"
                for number, event in self.decoder.feed(data):
                    self.events[number].append(event)

    def ended(self, number: int) -> bool:
        return any(isinstance(event, Finished | Failed) for event in self.events[number])

    def text(self, number: int) -> str:
        parts = [event.data for event in self.events[number] if isinstance(event, Text)]
        return b"".join(parts).decode()


def request(content: str) -> Request:
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1000}
    return Request("00" * 16, body, "22" * 32)


def with_edge(test: Callable[[Edge, FakeBackend], Awaitable[None]]) -> None:
    faults: list[object] = []

    async def go() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        backend, model = FakeBackend(), ByteModel()
        config = EnclaveConfig(listen="127.0.0.1:0")
        server = EnclaveServer(config, backend, {model.digest: model})
        port = await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await test(Edge(reader, writer), backend)
        finally:
            await server.stop()  # under an open link
            writer.close()
            await asyncio.sleep(0)

    asyncio.run(go())
    assert not faults


def test_answers_come_whole_and_ended() -> None:
    async def check(edge: Edge, backend: FakeBackend) -> None:
        edge.send(edge.hello(), request("żółć"), request(""), request("fail"), request("unended"))
        assert await edge.reader.readexactly(2) == bytes([Greeting.OK, 0])
        await edge.until(lambda: all(edge.ended(number) for number in range(4)))
        assert edge.text(0) == "żółć"
        assert Usage(3, 4) in edge.events[0]
        assert edge.events[0][-1] == Finished(Finish.STOP)
        assert edge.text(1) == ""
        assert edge.events[2][-1] == Failed(Failure.UPSTREAM_BROKE)
        assert edge.events[3][-1] == Failed(Failure.INTERNAL)

    with_edge(check)


def test_a_cancel_stops_the_backend_and_ends_the_answer() -> None:
    async def check(edge: Edge, backend: FakeBackend) -> None:
        edge.send(edge.hello(), request("endless"), request("short"))
        await edge.reader.readexactly(2)
        await edge.until(lambda: len(edge.text(0)) > 20 and edge.ended(1))
        assert backend.running == 1
        edge.send(Cancel(0))
        await edge.until(lambda: edge.ended(0))
        assert edge.events[0][-1] == Finished(Finish.CANCELLED)
        assert backend.running == 0

    with_edge(check)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"protocol": 99}, Greeting.PROTOCOL_UNKNOWN),
        ({"weak": []}, Greeting.BAD_HELLO),
        ({"weak": [WeakOffer("zz", "")]}, Greeting.BAD_HELLO),
        ({"weak": [WeakOffer("00" * 32, "00" * 32)]}, Greeting.NO_COMMON_MODEL),
        ({"weak": [WeakOffer(ByteModel().digest.hex(), "00" * 32)]}, Greeting.NUMERICS_DIFFER),
        ({"options": {"no_such_option": 1}}, Greeting.BAD_HELLO),
    ],
)
def test_what_does_not_agree_is_refused_with_two_bytes(
    change: dict[str, object], code: Greeting
) -> None:
    async def check(edge: Edge, backend: FakeBackend) -> None:
        good = edge.hello()
        fields = {"protocol": good.protocol, "weak": good.weak, "options": good.options} | change
        edge.send(Hello(**fields))  # type: ignore[arg-type]
        assert (await edge.reader.read())[0] == code

    with_edge(check)


@pytest.mark.parametrize(
    "garbage",
    [b"\x00\x00\x00\x02{}", b"\xff" * 8, encode_frame(Cancel(0)), b"\x00\x00\x00\x01["],
)
def test_garbage_closes_the_link_without_a_byte(garbage: bytes) -> None:
    async def check(edge: Edge, backend: FakeBackend) -> None:
        edge.writer.write(garbage)
        assert await edge.reader.read() == b""

    with_edge(check)


def test_a_lost_link_stops_its_answers() -> None:
    async def check(edge: Edge, backend: FakeBackend) -> None:
        edge.send(edge.hello(), request("endless"))
        await edge.reader.readexactly(2)
        await edge.until(lambda: len(edge.text(0)) > 5)
        edge.writer.transport.abort()
        async with asyncio.timeout(120):
            while backend.running:
                await asyncio.sleep(0.01)

    with_edge(check)


def test_a_body_that_no_edge_makes_ends_its_answer_alone() -> None:
    async def check(edge: Edge, backend: FakeBackend) -> None:
        odd = request("odd")
        odd.body["stop"] = 5
        edge.send(edge.hello(), odd, request("hello"))
        await edge.reader.readexactly(2)
        await edge.until(lambda: edge.ended(0) and edge.ended(1))
        assert edge.events[0][-1] == Failed(Failure.INTERNAL)
        assert edge.text(1) == "hello"

    with_edge(check)
