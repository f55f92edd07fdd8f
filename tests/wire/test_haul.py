"""A spool on another machine: the same files, whatever is cut off, and bounded."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from narrows.errors import InputError, NarrowsError, PeerError
from narrows.wire.pins import TlsFiles, client_context, make_identity
from narrows.wire.spool import SpoolReader, SpoolWriter, prune_through
from narrows.wire.spool.file import HEADER_BYTES, new_key
from narrows.wire.spool.haul import (
    DATA,
    FIRST,
    FRAME_BYTES,
    HELD_BYTES,
    LAST,
    MAX_DATA_BYTES,
    HaulFrame,
    HeldFiles,
    parse_frame,
    parse_held,
)
from narrows.wire.spool.receive import HaulServer, SpoolCopy
from narrows.wire.spool.ship import Haul, dial, ship, ship_once
from narrows.wire.spool.writer import MIN_FILE_BYTES

PRIVATE, PUBLIC = new_key()
FIRST_NONCE, SECOND_NONCE = bytes([1]) * 32, bytes([2]) * 32


def writer(folder: Path) -> SpoolWriter:
    return SpoolWriter(
        folder, PUBLIC, max_bytes=4_000_000, max_age_s=86400, file_bytes=MIN_FILE_BYTES
    )


def copy(folder: Path, max_bytes: int = 4_000_000) -> SpoolCopy:
    return SpoolCopy(folder, max_bytes=max_bytes, max_age_s=86400)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.spool"))}


@contextlib.contextmanager
def receiving(kept: SpoolCopy, tls: TlsFiles | None = None) -> Iterator[tuple[int, list[str]]]:
    """A server in a thread; its port and what it said."""
    said: list[str] = []
    ports: list[int] = []
    ready, ending = threading.Event(), threading.Event()

    async def serve() -> None:
        server = await HaulServer(kept, tls, said.append).listen("127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        await asyncio.to_thread(ending.wait)
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(20)
        yield ports[0], said
    finally:
        ending.set()
        thread.join()
        kept.close()


@pytest.fixture
def identities(tmp_path: Path) -> tuple[TlsFiles, TlsFiles]:
    """Of the gate's side and of the auditor's."""
    gate_cert, gate_key = make_identity(tmp_path, "gate")
    cert, key = make_identity(tmp_path, "auditor")
    return TlsFiles(gate_cert, gate_key, cert), TlsFiles(cert, key, gate_cert)


def test_the_same_files_arrive_as_they_grow(
    tmp_path: Path, identities: tuple[TlsFiles, TlsFiles]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    data = random.Random(1).randbytes(MIN_FILE_BYTES)
    spool = writer(here)
    with receiving(copy(there), identities[1]) as (port, said):
        address = ("127.0.0.1", port)
        assert ship_once(here, address, identities[0]) == 0
        spool.begin(FIRST_NONCE)
        for round_ in range(3):
            spool.append(data[round_:])
            assert ship_once(here, address, identities[0]) > len(data) - round_
            assert content(there) == content(here)
        assert ship_once(here, address, identities[0]) == 0
        spool.begin(SECOND_NONCE)
        spool.append(b"after")
        ship_once(here, address, identities[0])
        reader = SpoolReader(there, PRIVATE)
        assert reader.chapters() == [FIRST_NONCE, SECOND_NONCE]
        assert reader.read(SECOND_NONCE, 0) == b"after"
        assert len(content(there)) > 3
        prune_through(here, reader.base(SECOND_NONCE))
        ship_once(here, address, identities[0])
        assert content(there) == content(here)
        assert len(content(there)) == 1
    assert said == []


def test_it_goes_on_over_restarts_of_both(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    spool = writer(here)
    spool.begin(FIRST_NONCE)
    ending, said = threading.Event(), list[str]()
    with receiving(copy(there)) as (first, _):
        spool.append(b"x" * 5000)
        ship_once(here, ("127.0.0.1", first), None)
    spool.append(b"y" * 5000)
    with pytest.raises(PeerError, match="away"):
        ship_once(here, ("127.0.0.1", first), None)
    last = sorted(there.glob("*.spool"))[-1]
    with last.open("ab") as file:
        file.write(bytes(100))  # what a crash of that machine may leave
    with receiving(copy(there)) as (port, _):
        thread = threading.Thread(
            target=ship, args=(here, ("127.0.0.1", port), None, said.append, ending)
        )
        thread.start()
        deadline = threading.Event()
        for _ in range(300):
            if content(there) == content(here):
                break
            deadline.wait(0.1)
        ending.set()
        thread.join()
    assert content(there) == content(here)
    assert said == ["connected"]


def test_a_stranger_gets_a_handshake_and_no_byte(
    tmp_path: Path, identities: tuple[TlsFiles, TlsFiles]
) -> None:
    stranger_cert, stranger_key = make_identity(tmp_path, "stranger")
    gate, auditor = identities
    stranger = client_context(stranger_cert, stranger_key, gate.peer_file)
    with receiving(copy(tmp_path / "there"), auditor) as (port, _):
        plain = socket.create_connection(("127.0.0.1", port))
        with contextlib.suppress(OSError), stranger.wrap_socket(plain) as line:
            assert line.recv(1) == b""  # TLS 1.3: the refusal comes after the client's own end
        with pytest.raises((OSError, PeerError)):
            dial(("127.0.0.1", port), TlsFiles(gate.cert_file, gate.key_file, stranger_cert))
        assert ship_once(tmp_path / "here", ("127.0.0.1", port), gate) == 0


def test_another_spool_is_not_mixed_in(tmp_path: Path) -> None:
    for name, nonce in (("one", FIRST_NONCE), ("two", SECOND_NONCE)):
        spool = writer(tmp_path / name)
        spool.begin(nonce)
        spool.append(b"z" * 100)
        spool.close()
    with receiving(copy(tmp_path / "there")) as (port, _):
        ship_once(tmp_path / "one", ("127.0.0.1", port), None)
        with pytest.raises(InputError, match="another spool"):
            ship_once(tmp_path / "two", ("127.0.0.1", port), None)
        assert content(tmp_path / "there") == content(tmp_path / "one")


def test_a_full_copy_waits(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    spool = writer(here)
    spool.begin(FIRST_NONCE)
    for _ in range(10):
        spool.append(bytes(100_000))
    with receiving(copy(there, 500_000)) as (port, said):
        with pytest.raises(PeerError):
            ship_once(here, ("127.0.0.1", port), None)
        assert 400_000 < sum(map(len, content(there).values())) <= 500_000
        assert any("full" in text for text in said)
        prune_through(here, 600_000)
        ship_once(here, ("127.0.0.1", port), None)
        last = sorted(content(there))[-1]
        assert content(there)[last] == content(here)[last]


def refused(kept: SpoolCopy, frame: HaulFrame, data: bytes) -> None:
    before = kept.held
    with pytest.raises(PeerError):
        kept.take(frame, data)
    assert kept.held == before


def test_only_what_goes_on_is_taken(tmp_path: Path) -> None:
    spool = writer(tmp_path / "here")
    spool.begin(FIRST_NONCE)
    spool.append(b"q" * 1000)
    spool.close()
    ((name, data),) = content(tmp_path / "here").items()
    kept = copy(tmp_path / "there")
    refused(kept, HaulFrame(DATA, 1, 1, 5, 3), data[5:8])
    refused(kept, HaulFrame(DATA, 0, 0, 7, 3), data[:3])
    kept.take(HaulFrame(DATA, 1, 1, 0, 50), data[:50])
    assert kept.held == HeldFiles(1, 1, 50)
    refused(kept, HaulFrame(DATA, 1, 1, 0, 50), data[:50])
    refused(kept, HaulFrame(DATA, 1, 1, 51, 50), data[51:101])
    kept.take(HaulFrame(DATA, 1, 1, 50, len(data) - 50), data[50:])
    assert kept.held == HeldFiles(1, 1, len(data), FIRST_NONCE)
    refused(kept, HaulFrame(DATA, 1, 0, 0, 3), data[:3])
    with pytest.raises(PeerError, match="written as"):
        kept.take(HaulFrame(DATA, 1, 2, 0, HEADER_BYTES), data[:HEADER_BYTES])
    kept.take(HaulFrame(FIRST, 9, 9, 0, 0), b"")
    assert len(content(tmp_path / "there")) == 1, "the newest one stays"
    with pytest.raises(InputError, match="cannot write"):
        copy(tmp_path / "there")
    kept.close()
    assert name == "00000001-00000001.spool"


def test_fuzz_frames_change_nothing_but_the_copy(tmp_path: Path) -> None:
    """Whatever an authenticated side sends: bounded, within the folder, never a traceback."""
    rng = random.Random(11)
    spool = writer(tmp_path / "here")
    spool.begin(FIRST_NONCE)
    spool.append(rng.randbytes(3000))
    ((_, good),) = content(tmp_path / "here").items()
    for round_ in range(40):
        kept = copy(tmp_path / "there", 1 << 20)
        for _ in range(30):
            data = rng.choice([good, good[: rng.randrange(1, 500)], rng.randbytes(200), b"\0"])
            place = rng.choice([(1, 1), (1, 2), (2, 1), (0, 0), (2**32 - 1, 2**32 - 1)])
            offset = rng.choice([0, kept.held.size, rng.getrandbits(64)])
            raw = HaulFrame(rng.choice([DATA, FIRST, 3]), *place, offset, len(data)).encode()
            with contextlib.suppress(NarrowsError, OSError):
                kept.take(parse_frame(raw), data)
        assert sum(map(len, content(tmp_path / "there").values())) <= 1 << 20
        kept.close()
        copy(tmp_path / "there", 1 << 20).close()
        if round_ % 3 == 0:
            shutil.rmtree(tmp_path / "there")
    assert {path.name for path in tmp_path.iterdir()} <= {"here", "there"}


def test_messages_have_one_form() -> None:
    held = HeldFiles(3, 4, 5, FIRST_NONCE)
    assert len(held.encode()) == HELD_BYTES
    assert parse_held(held.encode()) == held
    for bad in (b"", held.encode()[:-1], b"HTTP/1.1 200 OK".ljust(HELD_BYTES)):
        with pytest.raises(PeerError):
            parse_held(bad)
    frame = HaulFrame(DATA, 1, 2, 3, MAX_DATA_BYTES)
    assert len(frame.encode()) == FRAME_BYTES
    assert parse_frame(frame.encode()) == frame
    for wrong in (
        HaulFrame(DATA, 1, 1, 0, 0),
        HaulFrame(DATA, 1, 1, 0, MAX_DATA_BYTES + 1),
        HaulFrame(FIRST, 1, 1, 0, 1),
        HaulFrame(FIRST, 1, 1, 1, 0),
        HaulFrame(0, 1, 1, 0, 0),
        HaulFrame(LAST, 0, 1, 0, 0),
        HaulFrame(4, 0, 0, 0, 0),
    ):
        with pytest.raises(PeerError):
            parse_frame(wrong.encode())


def test_a_side_that_is_no_receiver(tmp_path: Path) -> None:
    one, other = socket.socketpair()
    with one, other:
        other.sendall(b"x" * HELD_BYTES)
        with pytest.raises(PeerError, match="takes no spool"):
            Haul(tmp_path, one)
