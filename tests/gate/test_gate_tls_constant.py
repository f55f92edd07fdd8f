"""TLS with pinned keys, every byte of it counted; constant pacing; padding."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.gate_fakes import FAST, FakeLedger, enclave, read_all, running_gate
from narrows.errors import InputError, LinkError, PeerError
from narrows.gate.config import GateConfig, PortConfig
from narrows.gate.link import Link
from narrows.gate.tls import TlsPipe, TlsServer
from narrows.wire.gatestate import fetch_state
from narrows.wire.padding import ConstantUnframer, frame_bytes, pad, tls_payload_bytes
from narrows.wire.pins import TlsFiles, check_peer, client_context, make_identity, read_pins


def run(coroutine) -> None:  # type: ignore[no-untyped-def]
    asyncio.run(asyncio.wait_for(coroutine, 60))


class Tap:
    """A relay between edge and gate that counts what the gate sends."""

    def __init__(self, port: int) -> None:
        self._port, self.counted = port, 0
        self.chunks: list[int] = []

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, edge: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        inward = asyncio.create_task(self._copy(edge, writer, False))
        await self._copy(reader, out, True)
        inward.cancel()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: bool
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                if count:
                    self.counted += len(data)
                    self.chunks.append(len(data))
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture
def identities(tmp_path: Path) -> tuple[TlsFiles, TlsFiles]:
    """Of the gate and of the edge."""
    gate_cert, gate_key = make_identity(tmp_path, "gate")
    edge_cert, edge_key = make_identity(tmp_path, "edge")
    return TlsFiles(gate_cert, gate_key, edge_cert), TlsFiles(edge_cert, edge_key, gate_cert)


def context(files: TlsFiles) -> ssl.SSLContext:
    return client_context(files.cert_file, files.key_file, files.peer_file)


async def dial(port: int, files: TlsFiles) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(
        "127.0.0.1", port, ssl=context(files), server_hostname="gate"
    )


def test_every_ciphertext_byte_is_paid(
    tmp_path: Path, identities: tuple[TlsFiles, TlsFiles]
) -> None:
    gate_files, edge_files = identities
    answer = os.urandom(100_000)

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(7) == b"request"
        writer.write(answer)

    async def scenario() -> None:
        ledger = FakeLedger(1_000_000)
        config = replace(FAST, tls=gate_files)
        async with (
            enclave(answering) as inside,
            running_gate(ledger, inside, tmp_path, config) as gate,
        ):
            tap = Tap(gate.ports[0].listening)
            async with tap as port:
                reader, writer = await dial(port, edge_files)
                check_peer(writer.get_extra_info("ssl_object"), read_pins(edge_files.peer_file))
                writer.write(b"request")
                assert await reader.readexactly(len(answer)) == answer
                meter = gate.ports[0].meter
                assert tap.counted == meter.sent_bytes > len(answer)
                writer.transport.abort()
            state = await fetch_state(
                "127.0.0.1",
                gate.state_port,
                context(edge_files),
                read_pins(edge_files.peer_file),
            )
            assert state.ports["answers"].state == "ok"
        assert ledger.spent_bytes == meter.sent_bytes + meter.timing_bytes

    run(scenario())


@pytest.mark.parametrize("budget", [100, 1500, 2000, 5000])
def test_no_ciphertext_after_depletion(
    tmp_path: Path, identities: tuple[TlsFiles, TlsFiles], budget: int
) -> None:
    gate_files, edge_files = identities

    async def flooding(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async def scenario() -> None:
        ledger = FakeLedger(budget)
        config = replace(FAST, tls=gate_files)
        async with (
            enclave(flooding) as inside,
            running_gate(ledger, inside, tmp_path, config) as gate,
        ):
            tap = Tap(gate.ports[0].listening)
            async with tap as port:
                for _ in range(3):
                    try:
                        reader, writer = await dial(port, edge_files)
                    except OSError:
                        continue
                    with_end = await read_all(reader)
                    assert len(with_end) < budget
                    writer.close()
            assert tap.counted <= ledger.spent_bytes <= budget

    run(scenario())


@given(st.integers(0, 60_000), st.lists(st.integers(0, 40_000), max_size=6))
@settings(max_examples=40, deadline=None)
def test_what_is_planned_is_what_is_taken(waiting: int, counts: list[int]) -> None:
    """The price of a tick is computed for ``fits``, so ``take`` must give exactly that."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = established_pipe(Path(folder))
    for tls in (None, pipe):
        link = Link(Sink(), tls, 1 << 20, 1 << 20, 30.0, lambda _: None)  # type: ignore[arg-type]
        link.from_enclave(bytes(waiting))
        for count in [*counts, 1 << 20]:
            planned = link.fits(count)
            assert planned <= count
            assert len(link.take(count if count % 2 else planned)) == planned
        assert link.waiting_bytes == 0


class Sink:
    """An edge that is never written to."""


def established_pipe(folder: Path) -> TlsPipe:
    """A gate's end of a TLS connection, after its handshake."""
    gate_cert, gate_key = make_identity(folder, "gate")
    edge_cert, edge_key = make_identity(folder, "edge")
    pipe = TlsServer(TlsFiles(gate_cert, gate_key, edge_cert)).pipe()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    edge = client_context(edge_cert, edge_key, gate_cert).wrap_bio(incoming, outgoing)
    while not pipe.established:
        with contextlib.suppress(ssl.SSLWantReadError):
            edge.do_handshake()
        pipe.receive(outgoing.read())
        incoming.write(pipe.take_outgoing())
    return pipe


def test_other_keys_get_no_link(tmp_path: Path, identities: tuple[TlsFiles, TlsFiles]) -> None:
    gate_files, edge_files = identities
    cert, key = make_identity(tmp_path, "stranger")
    dialled = 0

    async def counting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dialled
        dialled += 1

    async def scenario() -> None:
        config = replace(FAST, tls=gate_files)
        async with (
            enclave(counting) as inside,
            running_gate(FakeLedger(100_000), inside, tmp_path, config) as gate,
        ):
            port = gate.ports[0].listening
            reader, writer = await dial(port, TlsFiles(cert, key, edge_files.peer_file))
            assert await read_all(reader) == b""  # the gate saw the wrong client key
            writer.transport.abort()
            with pytest.raises(ssl.SSLError):  # the edge would see a wrong gate
                await dial(port, TlsFiles(edge_files.cert_file, edge_files.key_file, cert))
            with pytest.raises(PeerError):
                await fetch_state("127.0.0.1", gate.state_port)  # no TLS at all
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await read_all(reader) == b""
            writer.close()
        assert dialled == 0
        assert gate.ports[0].links_opened == 0

    run(scenario())


def test_identities_are_never_overwritten_and_keys_are_private(tmp_path: Path) -> None:
    _, key = make_identity(tmp_path, "gate")
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError):
        make_identity(tmp_path, "gate")
    with pytest.raises(InputError):
        read_pins(key)
    with pytest.raises(InputError):
        read_pins(tmp_path / "none.crt")


@pytest.mark.parametrize("tls", [False, True])
def test_constant_ticks_have_one_size(
    tmp_path: Path, identities: tuple[TlsFiles, TlsFiles], tls: bool
) -> None:
    gate_files, edge_files = identities
    size = 100
    config = replace(FAST, pacing="constant", constant_bytes=size, tls=gate_files if tls else None)
    answer = os.urandom(3000)

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(7)
        writer.write(answer)
        await reader.read()

    async def scenario() -> None:
        ledger = FakeLedger(1_000_000)
        async with (
            enclave(answering) as inside,
            running_gate(ledger, inside, tmp_path, config) as gate,
        ):
            port, meter = gate.ports[0].listening, gate.ports[0].meter
            if tls:
                reader, writer = await dial(port, edge_files)
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            handshake = meter.sent_bytes if tls else 0
            writer.write(b"request")
            unframer, got = ConstantUnframer(frame_bytes(size, tls)), b""
            while len(got) < len(answer):
                assert not reader.at_eof()
                got += unframer.feed(await reader.read(1 << 16))
            assert got == answer
            await asyncio.sleep(0.1)
            assert (meter.sent_bytes - handshake) % size == 0 or tls
            writer.transport.abort()
            frames = meter.sent_bytes // size
            assert frames > len(answer) // size + 10, "silent ticks send as much"
            assert meter.timing_bytes >= frames // 8 - 20

    run(scenario())


def test_constant_pacing_never_outspends(tmp_path: Path) -> None:
    config = replace(FAST, pacing="constant", constant_bytes=64)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def scenario() -> None:
        ledger = FakeLedger(5_000)
        async with (
            enclave(silent) as inside,
            running_gate(ledger, inside, tmp_path, config) as gate,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports[0].listening)
            arrived = len(await read_all(reader))
            writer.close()
            assert arrived % 64 == 0
            assert 4_700 <= arrived <= ledger.spent_bytes <= 5_000

    run(scenario())


@given(st.binary(max_size=99), st.integers(2, 100))
def test_padding_round_trips_and_has_one_size(payload: bytes, size: int) -> None:
    payload = payload[: size - 1]
    frame = pad(payload, size)
    assert len(frame) == size
    assert ConstantUnframer(size).feed(frame) == payload


@given(st.lists(st.binary(max_size=19), max_size=10), st.lists(st.integers(1, 50), max_size=10))
def test_unframing_does_not_depend_on_cuts(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pad(payload, 20) for payload in payloads)
    unframer, got = ConstantUnframer(20), b""
    for cut in [*cuts, len(stream)]:
        got += unframer.feed(stream[:cut])
        stream = stream[cut:]
    assert got == b"".join(payloads)


@given(st.binary(max_size=200))
def test_unframing_any_bytes_ends_in_payload_or_link_error(data: bytes) -> None:
    try:
        assert len(ConstantUnframer(20).feed(data)) < max(1, len(data))
    except LinkError:
        assert len(data) >= 20


def test_bad_padding_is_refused() -> None:
    for frame in [b"\x00" * 4, b"abcd", b"ab\x80c"]:
        with pytest.raises(LinkError):
            ConstantUnframer(4).feed(frame)
    with pytest.raises(ValueError):
        pad(b"abcd", 4)


@given(st.integers(0, 100_000))
def test_the_plaintext_that_fits_in_records_is_the_largest(wire: int) -> None:
    payload = tls_payload_bytes(wire)
    cost = payload + 22 * -(-payload // 16384)
    assert cost <= wire or payload == 0
    assert payload + 1 + 22 * -(-(payload + 1) // 16384) > wire


def test_a_gate_beyond_loopback_needs_tls() -> None:
    for config in (
        GateConfig(ports=(PortConfig(listen_host="0.0.0.0"),)),
        GateConfig(state_host="192.0.2.1"),
        GateConfig(ports=()),
        GateConfig(ports=(PortConfig(), PortConfig())),
        GateConfig(tick_ms=0),
        GateConfig(pacing="off"),
        GateConfig(constant_bytes=16_406 + 22, tls=TlsFiles(Path("a"), Path("b"), Path("c"))),
        GateConfig(witness="127.0.0.1:1"),
        GateConfig(witness="127.0.0.1:1", witness_key="AB" * 32),
        GateConfig(ports=(PortConfig(name="a b"),)),
    ):
        with pytest.raises(InputError) as caught:
            config.check()
        assert caught.value.problems
    assert GateConfig().check() == GateConfig()
