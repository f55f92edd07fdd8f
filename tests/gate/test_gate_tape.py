"""The gate's tape: what passed, in order, and nothing that leaves depends on it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from gate.gate_fakes import FAST, FakeLedger, enclave, read_all, running_gate
from gate.test_gate_charged_moments import Paper, bare_port
from narrows.bench.gate_peers import Child, deployment, enclave_process
from narrows.deploy.gate_section import load_gate
from narrows.errors import InputError
from narrows.gate.config import GateConfig
from narrows.gate.main import audited_accounts
from narrows.gate.meter import cut
from narrows.gate.tape import tap as tap_module
from narrows.gate.tape.config import TapeConfig
from narrows.gate.tape.tap import OVERRUN, LinkCopy, Tap
from narrows.wire.pins import TlsFiles, client_context, make_identity
from narrows.wire.spool import SpoolReader, SpoolWriter
from narrows.wire.spool.file import new_key
from narrows.wire.tape import (
    MAX_OPEN_LINKS,
    Begin,
    Inward,
    LinkEnd,
    Outward,
    Record,
    TapeReader,
)

PRIVATE, PUBLIC = new_key()
WAIT_S = 30.0


def tape_config(tmp_path: Path, ports: tuple[str, ...] = ()) -> TapeConfig:
    return TapeConfig(tmp_path / "spool", PUBLIC.hex(), ports, max_bytes=10_000_000)


def until(true: Callable[[], object], every_s: float = 0.01) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(every_s)


def records(folder: Path, nonce: bytes) -> list[Record]:
    """Of one chapter, from its first byte to what is there."""
    reader, tape = SpoolReader(folder, PRIVATE), TapeReader()
    found: list[Record] = []
    offset = 0
    while data := reader.read(nonce, offset):
        found += tape.feed(data)
        offset += len(data)
    assert tape.boot_nonce in (b"", nonce)
    return found


def chapters(folder: Path) -> list[list[Record]]:
    reader = SpoolReader(folder, PRIVATE)
    if not folder.exists():
        return []
    return [records(folder, nonce) for nonce in reader.chapters()]


def passed(tape: list[Record], kind: type[Inward] | type[Outward]) -> dict[int, bytes]:
    """By link."""
    found: dict[int, bytes] = defaultdict(bytes)
    for record in tape:
        if isinstance(record, kind):
            found[record.link] += record.data
    return dict(found)


def run(coroutine) -> None:  # type: ignore[no-untyped-def]
    asyncio.run(asyncio.wait_for(coroutine, 60))


async def copying(tap: Tap) -> None:
    while tap.stats()["state"] != "copying":
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("pacing", ["variable", "constant", "tls"])
def test_what_passed_is_on_the_tape(tmp_path: Path, pacing: str) -> None:
    requests = [os.urandom(n) for n in (1, 5_000, 20_000)]
    answers = [request[::-1] * 10 for request in requests]
    cert, key = make_identity(tmp_path, "gate")
    edge_cert, edge_key = make_identity(tmp_path, "edge")
    paced = {
        "variable": FAST,
        "constant": replace(FAST, pacing="constant", constant_bytes=5_000),
        "tls": replace(FAST, tls=TlsFiles(cert, key, edge_cert)),
    }[pacing]
    context = client_context(edge_cert, edge_key, cert) if pacing == "tls" else None

    async def reversing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(4), "big")
        writer.write((await reader.readexactly(size))[::-1] * 10)
        await writer.drain()

    async def ask(port: int, request: bytes) -> bytes:
        name = "gate" if context else None
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname=name
        )
        writer.write(len(request).to_bytes(4, "big") + request)
        answer = await read_all(reader)
        writer.close()
        return answer

    async def scenario() -> None:
        ledger = FakeLedger(100_000_000)
        tap = Tap(tape_config(tmp_path), lambda text: None)
        async with (
            enclave(reversing) as inside,
            running_gate(ledger, inside, tmp_path, paced, tap=tap, credited=lambda: 7) as gate,
        ):
            await copying(tap)
            port = gate.ports[0].listening
            got = [await ask(port, request) for request in requests]
            if pacing != "constant":
                assert got == answers
            sent_bytes = gate.ports[0].meter.sent_bytes
        (tape,) = chapters(tmp_path / "spool")
        inward, outward = passed(tape, Inward), passed(tape, Outward)
        assert [data[4:] for data in inward.values()] == requests
        assert list(outward.values()) == answers
        assert sum(isinstance(record, Begin) for record in tape) == 3
        assert sum(isinstance(record, LinkEnd) for record in tape) == 3
        paid: dict[bytes, int] = defaultdict(int)
        for record in tape:
            if isinstance(record, Outward):
                paid[record.lease] += record.paid_bytes
        assert all(size <= ledger.settled[lease] for lease, size in paid.items())
        assert sent_bytes <= sum(paid.values()) <= ledger.spent_bytes
        assert tap.stats()["queued_bytes"] == 0
        assert tap.done_position == 7, "what the ledger's credits say"
        for link in inward:
            mine = [record for record in tape if record.link == link]
            kinds = [type(r) for r in mine if isinstance(r, Inward) or getattr(r, "data", b"")]
            assert kinds.index(Outward) == kinds.count(Inward), "all of the request came before"

    run(scenario())


class Held(SpoolWriter):
    """A disk that takes nothing while ``held``, and refuses while ``full``."""

    free = threading.Event()
    hangs = threading.Event()
    full = False

    def append(self, data: bytes) -> None:
        if not self.free.is_set():
            self.hangs.set()
        self.free.wait(WAIT_S)
        if Held.full:
            self.end()
            raise OSError(errno.ENOSPC, "No space left on device")
        super().append(data)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> type[Held]:
    monkeypatch.setattr(tap_module, "SpoolWriter", Held)
    Held.free, Held.hangs, Held.full = threading.Event(), threading.Event(), False
    Held.free.set()
    return Held


@pytest.mark.parametrize("tls", [False, True])
def test_a_blocked_spool_changes_nothing_that_leaves(
    tmp_path: Path, held: type[Held], tls: bool
) -> None:
    """The same story tick by tick, without a tape, with one, and with a disk that hangs while
    the queue fills and overflows: the same bytes in the same ticks, and the same charge."""

    async def story(tap: Tap | None) -> list[tuple[int, ...]]:
        shown = []
        async with bare_port(FakeLedger(1 << 40), 3, tls=tls) as (port, links):
            assert await port.meter.ensure(1_000_000)
            for link in links:
                link.copy = None if tap is None else tap.copy("answers")
                assert (link.copy is None) == (tap is None)
            for tick in range(60):
                if tick % 3:
                    links[tick % 2].from_enclave(b"x" * (tick * 37 % 4000))
                    if not tls:
                        links[2].from_edge(b"y" * 100)
                if tick == 40:
                    links[1].enclave_ended()
                port.tick()
                port.miss(tick % 5 == 0)
                papers = [link.outlet for link in links]
                assert all(isinstance(paper, Paper) for paper in papers)
                shown.append(
                    (*(p.written_bytes for p in papers), port.meter.credit, len(port._links))
                )
        return shown

    async def scenario() -> None:
        tap = Tap(tape_config(tmp_path), lambda text: None, queue_bytes=20_000)
        tap.start()
        await copying(tap)
        alone = await story(None)
        assert await story(tap) == alone
        until(lambda: tap.stats()["queued_bytes"] == 0)
        await copying(tap)
        held.free.clear()
        first = tap.copy("answers")
        assert first is not None
        first.inward(b"z")  # the writer takes it and hangs; else it could meet the overrun first
        until(held.hangs.is_set)
        assert await story(tap) == alone
        stats = tap.stats()
        assert (stats["state"], stats["why"]) == ("stopped", OVERRUN)
        assert 10_000 < stats["queued_bytes"] <= 20_000  # type: ignore[operator]
        held.free.set()
        await copying(tap)
        await asyncio.to_thread(tap.close)

    run(scenario())


def test_after_a_full_queue_new_links_are_on_a_new_chapter(
    tmp_path: Path, held: type[Held]
) -> None:
    said: list[str] = []
    tap = Tap(tape_config(tmp_path), said.append, queue_bytes=4_000)
    tap.start()
    until(lambda: tap.stats()["state"] == "copying")
    before = tap.copy("answers")
    assert before is not None
    held.free.clear()
    for _ in range(20):
        before.inward(b"z" * 500)
    assert tap.copy("answers") is None
    held.free.set()
    until(lambda: tap.stats()["chapters"] == 2)
    until(lambda: tap.stats()["state"] == "copying")
    before.inward(b"z")
    before.end()
    after = tap.copy("answers")
    assert after is not None
    after.outward(b"answer", [(b"l" * 16, 7)])
    tap.close()
    first, second = chapters(tmp_path / "spool")
    assert 0 < len(passed(first, Inward)[1]) < 4_000
    assert passed(second, Outward) == {2: b"answer"}
    assert len(second) == 2
    assert said == [
        f"links are not copied onto the tape: {OVERRUN}",
        "the tape goes on, in a new chapter",
    ]


def test_a_full_disk_stops_the_copy_and_nothing_else(tmp_path: Path, held: type[Held]) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)

    async def ask(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        got = await reader.readexactly(5)
        writer.close()
        return got

    async def scenario() -> None:
        tap = Tap(tape_config(tmp_path), lambda text: None)
        async with (
            enclave(echo) as inside,
            running_gate(FakeLedger(1 << 30), inside, tmp_path, tap=tap) as gate,
        ):
            await copying(tap)
            port = gate.ports[0].listening
            assert await ask(port) == b"hello"
            await asyncio.to_thread(until, lambda: tap.stats()["tape_bytes"])
            held.full = True
            while tap.stats()["state"] == "copying":
                assert await ask(port) == b"hello"
            assert "No space" in str(gate.stats()["tape"])
            assert await ask(port) == b"hello"
            held.full = False
            await copying(tap)
            assert await ask(port) == b"hello"
        first, *_, last = chapters(tmp_path / "spool")
        assert b"hello" in passed(first, Inward).values()
        assert list(passed(last, Outward).values()) == [b"hello"]

    run(scenario())


def test_a_folder_that_cannot_be_used_is_said_and_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.write_text("in the way")
    said: list[str] = []
    tap = Tap(tape_config(tmp_path), said.append)
    tap.start()
    until(lambda: said)
    assert tap.copy("answers") is None
    assert "cannot use the folder" in said[0]
    folder.unlink()
    until(lambda: tap.stats()["state"] == "copying")
    tap.close()


def test_what_was_credited_is_removed(tmp_path: Path) -> None:
    tap = Tap(replace(tape_config(tmp_path), max_bytes=2_200_000), lambda text: None)
    tap.start()
    until(lambda: tap.stats()["state"] == "copying")
    link = tap.copy("answers")
    assert link is not None
    for _ in range(20):
        link.outward(b"x" * 50_000, [(b"l" * 16, 50_000)])
    until(lambda: tap.stats()["queued_bytes"] == 0)
    reader = SpoolReader(tmp_path / "spool", PRIVATE)
    (nonce,) = reader.chapters()
    assert reader.start(nonce) == 0
    tap.done_position = 500_000
    until(lambda: reader.start(nonce) > 200_000)
    assert reader.start(nonce) <= 500_000
    tap.close()


def test_a_full_spool_stops_the_copy_until_credits_make_room(tmp_path: Path) -> None:
    said: list[str] = []
    tap = Tap(replace(tape_config(tmp_path), max_bytes=1_100_000), said.append)
    tap.start()
    link = tap.copy("answers")
    while link is not None and not said:
        link.outward(b"x" * 50_000, [(b"l" * 16, 50_000)])
        until(lambda: not tap.stats()["queued_bytes"])
    assert (tap.stats()["state"], tap.copy("answers")) == ("stopped", None)
    assert "the spool is full" in str(tap.stats()["why"])
    reader = SpoolReader(tmp_path / "spool", PRIVATE)
    (nonce,) = reader.chapters()
    assert reader.ended(nonce) or tap.stats()["chapters"] == 1
    tap.done_position = 600_000
    until(lambda: tap.stats()["state"] == "copying")
    assert tap.copy("answers") is not None
    tap.close()
    assert len(reader.chapters()) == 2
    assert len(said) == 2


def test_a_new_spool_begins_behind_what_was_credited(tmp_path: Path) -> None:
    tap = Tap(tape_config(tmp_path), lambda text: None, floor=7_000)
    tap.start()
    until(lambda: tap.stats()["state"] == "copying")
    tap.close()
    reader = SpoolReader(tmp_path / "spool", PRIVATE)
    assert [reader.base(nonce) for nonce in reader.chapters()] == [7_000]


def test_only_named_ports_and_so_many_links_are_copied(tmp_path: Path) -> None:
    tap = Tap(tape_config(tmp_path, ("answers",)), lambda text: None)
    assert tap.copy("answers") is None, "nothing is copied yet"
    tap.start()
    until(lambda: tap.stats()["state"] == "copying")
    assert tap.copy("telemetry") is None
    links = [tap.copy("answers") for _ in range(MAX_OPEN_LINKS)]
    assert all(links)
    assert tap.copy("answers") is None
    assert isinstance(links[0], LinkCopy)
    links[0].end()
    links[0].end()
    links[0].inward(b"too late")
    assert tap.copy("answers") is not None
    assert tap.copy("answers") is None
    tap.close()
    (tape,) = chapters(tmp_path / "spool")
    assert len(tape) == MAX_OPEN_LINKS + 2


def test_each_lease_has_what_it_paid_for(tmp_path: Path) -> None:
    one, two, three = (bytes([n]) * 16 for n in (1, 2, 3))
    drawn = [(one, 10), (two, 200_000), (three, 5)]
    assert cut(drawn, 4) == [(one, 4)]
    assert cut(drawn, 7) == [(one, 6), (two, 1)]
    assert drawn == [(two, 199_999), (three, 5)]
    assert cut(drawn, 1 << 30) == [(two, 199_999), (three, 5)]
    assert cut(drawn, 1) == []
    tap = Tap(tape_config(tmp_path), lambda text: None)
    tap.start()
    until(lambda: tap.stats()["state"] == "copying")
    link = tap.copy("answers")
    assert link is not None
    link.outward(b"a" * 100_010, [(one, 10), (two, 100_030), (three, 5)])
    link.outward(b"", [(three, 9)])
    tap.close()
    (tape,) = chapters(tmp_path / "spool")
    said = [
        (r.lease, r.position, r.paid_bytes, len(r.data)) for r in tape if isinstance(r, Outward)
    ]
    assert said == [
        (one, 0, 10, 10),
        (two, 10, 65_536, 65_536),
        (two, 65_546, 34_494, 34_464),
        (three, 100_010, 5, 0),
        (three, 100_010, 9, 0),
    ]


def begun(folder: Path, number: int, least_bytes: int) -> bool:
    """Whether so many chapters are there, and on the last one so many bytes outward."""
    if len(chapters(folder)) < number:
        return False
    return sum(map(len, passed(chapters(folder)[-1], Outward).values())) >= least_bytes


def flooded(gate: Child, enough: Callable[[], bool]) -> tuple[bytes, bytes]:
    """Send to an echo until there is enough, then kill the gate; what went in, what came back."""
    edge = socket.create_connection(("127.0.0.1", gate.port))
    sent, got = bytearray(), bytearray()

    def send() -> None:
        with contextlib.suppress(OSError):
            while True:
                block = os.urandom(10_000)
                sent.extend(block)
                edge.sendall(block)
                time.sleep(0.02)

    def receive() -> None:
        with contextlib.suppress(OSError):
            while block := edge.recv(1 << 16):
                got.extend(block)

    threads = [threading.Thread(target=work, daemon=True) for work in (send, receive)]
    for thread in threads:
        thread.start()
    until(enough, 0.2)
    gate.kill()
    for thread in threads:
        thread.join(WAIT_S)
    edge.close()
    return bytes(sent), bytes(got)


def test_a_killed_gate_ends_the_chapter_and_the_next_begins_another(tmp_path: Path) -> None:
    """The real process, with the real ledger: kill -9 in the middle of a flood."""
    folder = tmp_path / "spool"
    block = f'[gate.tape]\nfolder = "{folder}"\nauditor_key = "{PUBLIC.hex()}"\n'
    with deployment(1 << 40) as site, enclave_process("echo") as inside:
        for round_ in range(2):
            gate = site.start_gate(inside, tables=block)
            sent, got = flooded(gate, partial(begun, folder, round_ + 1, 20_000))
            reader = SpoolReader(folder, PRIVATE)
            tape = records(folder, reader.chapters()[-1])
            assert not reader.ended(reader.chapters()[-1])
            ((_, inward),) = passed(tape, Inward).items()
            ((_, outward),) = passed(tape, Outward).items()
            assert sent.startswith(inward)
            assert inward.startswith(outward)
            assert len(outward) >= 20_000
            assert sent.startswith(got)
        first, second = reader.chapters()
        assert first != second
        assert reader.ended(first)
        assert reader.base(second) > 0


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"auditor_key": "AB" * 32}, "64 lower-case hex"),
        ({"auditor_key": "00" * 32}, "small order"),
        ({"ports": ("nowhere",)}, "no port is called so"),
        ({"max_bytes": 1000}, "tape.max_bytes"),
        ({"max_age_s": float("nan")}, "tape.max_age_s"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, wrong: dict[str, object], reason: str) -> None:
    tape = replace(tape_config(tmp_path), **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError) as refused:
        replace(FAST, tape=tape).check()
    assert reason in "\n".join(refused.value.problems)


def test_the_table_of_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "narrows.toml"
    path.write_text(
        '[gate]\n[gate.tape]\nfolder = "tape"\nports = ["answers"]\nmax_bytes = "3GB"\n'
        f'auditor_key = "{PUBLIC.hex()}"\n'
    )
    config = load_gate(path)
    assert config.tape == TapeConfig(tmp_path / "tape", PUBLIC.hex(), ("answers",), 3 * 10**9)
    assert audited_accounts(config) == {"answers"}
    assert audited_accounts(GateConfig()) == frozenset()
