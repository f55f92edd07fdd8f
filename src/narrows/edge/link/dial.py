"""Connecting to the gate: the edge always dials, and speaks first.

Steps: (1) TCP, with keepalive so that a gate that vanished is noticed on an idle link; (2) TLS
with pinned keys where configured; (3) Hello; (4) the two bytes of greeting. Whatever the gate
sends is counted as it is read, padding of constant pacing included, and unpadded behind that.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from narrows.edge.config import EdgeConfig
from narrows.errors import LinkError, PeerError
from narrows.models.shelf.shelf import Offer
from narrows.wire.gatestate import PortState, fetch_state
from narrows.wire.keepalive import set_options
from narrows.wire.messages import PROTOCOL, Greeting, Hello, WeakOffer, encode_frame
from narrows.wire.padding import ConstantUnframer, frame_bytes
from narrows.wire.pins import check_peer, client_context, read_pins

CONNECT_S = 5.0
GREETING_S = 15.0
READ_BYTES = 1 << 16
IDLE_S, PROBES = 10, 3


class Refused(PeerError):
    """The enclave answered the Hello with anything but OK."""

    def __init__(self, greeting: Greeting) -> None:
        remedies = {
            Greeting.NO_COMMON_MODEL: "give enclave and edge the same weak model",
            Greeting.NUMERICS_DIFFER: "same model, other integers: run narrows weak check on both",
            Greeting.PROTOCOL_UNKNOWN: "run the same version of narrows on both sides",
            Greeting.BAD_HELLO: "run the same version of narrows on both sides",
        }
        super().__init__(
            f"the enclave refuses the link: {greeting.name}", remedies.get(greeting, "")
        )
        self.greeting = greeting


class Unreachable(PeerError):
    """Nobody listens there: the attempt cost no counted byte, and the next one costs none."""


@dataclass(frozen=True, slots=True)
class Tls:
    context: ssl.SSLContext
    pins: frozenset[bytes]


class GateDialer:
    """The gate as the edge sees it: where it is, and how to know it."""

    def __init__(self, config: EdgeConfig) -> None:
        self._config = config
        self._tls: Tls | None = None
        if config.tls is not None:
            files = config.tls
            context = client_context(files.cert_file, files.key_file, files.peer_file)
            self._tls = Tls(context, read_pins(files.peer_file))

    async def state(self) -> PortState:
        """What the gate says of the answers' port; ``ok`` where it is not asked or away (an
        absent gate is a link that is down, and is reported as that)."""
        config = self._config
        if config.state_port == 0:
            return PortState("ok")
        context, pins = (self._tls.context, self._tls.pins) if self._tls else (None, frozenset())
        try:
            state = await fetch_state(config.state_host, config.state_port, context, pins)
        except PeerError:
            return PortState("ok")
        return state.ports.get(config.port_name, PortState("ok"))

    async def connect(self, count: Callable[[int], None]) -> Wire:
        """Steps 1 and 2. ``count`` is told the size of everything read. Raises PeerError
        (Unreachable)."""
        host, port = self._config.gate_host, self._config.gate_port
        context = self._tls.context if self._tls else None
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(
                    host, port, ssl=context, server_hostname="gate" if context else None
                )
        except (OSError, TimeoutError) as error:
            kind = Unreachable if isinstance(error, ConnectionRefusedError) else PeerError
            raise kind(f"the gate at {host}:{port} cannot be reached: {error}") from error
        if self._tls is not None:
            try:
                check_peer(writer.get_extra_info("ssl_object"), self._tls.pins)
            except PeerError:
                writer.transport.abort()
                raise
        set_options(writer.get_extra_info("socket"), IDLE_S, PROBES)
        unframer = None
        if self._config.constant_bytes:
            size = frame_bytes(self._config.constant_bytes, tls=self._tls is not None)
            unframer = ConstantUnframer(size)
        return Wire(reader, writer, count, unframer)


class Wire:
    """A connection to the gate: counted bytes out of the enclave, frames into it."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        count: Callable[[int], None],
        unframer: ConstantUnframer | None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._count = count
        self._unframer = unframer
        self._rest = b""

    async def greet(self, models: Sequence[Offer], options: dict[str, int]) -> tuple[Offer, bytes]:
        """Steps 3 and 4: the model that both ends have, and what came behind the greeting.
        Raises PeerError, LinkError."""
        offers = [WeakOffer(model.digest.hex(), model.numerics.hex()) for model in models]
        self.write(encode_frame(Hello(PROTOCOL, offers, options)))
        data = b""
        try:
            async with asyncio.timeout(GREETING_S):
                while len(data) < 2:
                    more = await self.read()
                    if more is None:
                        raise PeerError("the link closed before the enclave's greeting")
                    data += more
        except TimeoutError as error:
            raise PeerError(f"no greeting from the enclave within {GREETING_S:g} s") from error
        try:
            greeting = Greeting(data[0])
        except ValueError as error:
            raise LinkError(f"the enclave greets with {data[0]:#04x}") from error
        if greeting is not Greeting.OK:
            raise Refused(greeting)
        if data[1] >= len(models):
            raise LinkError(f"the enclave chose weak model {data[1]} of {len(models)}")
        return models[data[1]], data[2:]

    async def read(self) -> bytes | None:
        """The next bytes of payload, perhaps none; None at the end. Raises LinkError."""
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError:
            return None
        if not data:
            return None
        self._count(len(data))
        return self._unframer.feed(data) if self._unframer else data

    def write(self, frame: bytes) -> None:
        """Queue a frame; a broken connection shows at the next read."""
        self._writer.write(frame)

    def close(self) -> None:
        self._writer.transport.abort()
