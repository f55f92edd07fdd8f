"""Attacks through the other ports, and through roles that start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from narrows.errors import PeerError
from narrows.ledger.api import Denied
from narrows.ledger.clock import SystemClock
from narrows.ledger.ledger import Ledger
from narrows.ledger.stores.place import LedgerPlace
from narrows.ledger.witness.server import HttpWitness
from narrows.ledger.witness.witness import witness_verifier
from narrows.redteam.attack import Effort, attack
from narrows.redteam.client import Seen, watch
from narrows.redteam.payload import Decoded, to_bits
from narrows.redteam.site import Site, passed

WAIT_S = 20.0
JITTER_S = 0.05  # by how much later than they left bytes may be read here, beside ``Lateness``
BEAT_S = 0.005


class Flood:
    """Says random bytes as fast as they are taken, on every connection where they left off."""

    def __init__(self, effort: Effort) -> None:
        self._rng = random.Random(f"flood {effort.seed}")
        self.said: list[bytearray] = []
        self.pause_s = 0.0

    async def raw(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        said = bytearray()
        self.said.append(said)
        while not reader.at_eof():
            part = self._rng.randbytes(1024)
            said += part
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(self.pause_s)


def as_bits(data: bytes) -> list[int]:
    return [bit for byte in data for bit in to_bits(byte, 8)]


def _arrived(parts: list[bytes], flood: Flood) -> Decoded:
    """What came, link by link, of what was said: as much as arrived is what was sent."""
    said = b"".join(bytes(one[: len(part)]) for one, part in zip(flood.said, parts, strict=False))
    got, total = b"".join(parts), sum(map(len, flood.said))
    return Decoded(as_bits(said), as_bits(got), note=f"{len(got):,} of {total:,} bytes")


@attack("telemetry-bytes", "roles")
def telemetry_bytes(site: Site, effort: Effort) -> Decoded:
    """Bytes of the thief's own on a port that is not for answers: telemetry, or an export.

    Sees: the bytes at the gate's port.
    Decodes: eight bits a byte.
    Charged: as bytes of any port, each with its own account; this is the attack with the least
    between payload and charge.
    """
    data = bytes(effort.secret.take(8) for _ in range(effort.times(3000)))

    seen = passed(site, data, WAIT_S)
    return Decoded(effort.secret.taken, as_bits(seen.data))


@attack("role-restarts", "ledger", by_ledger=True)
def role_restarts(site: Site, effort: Effort) -> Decoded:
    """A flood while the gate is killed and started again, twice.

    Sees: all bytes at the gate's port, before and after.
    Decodes: eight bits a byte.
    Charged: leases before they are used; what a killed gate had leased counts as spent.
    """
    flood, parts = Flood(effort), []
    flood.pause_s = 0.05
    site.inside.raw = flood.raw
    for turn in range(3):
        with contextlib.suppress(OSError), site.dial() as sock, ThreadPoolExecutor(1) as pool:
            sock.sendall(b"\x00")
            seen = pool.submit(watch, sock, WAIT_S)
            time.sleep(0.3)
            if turn < 2:
                site.end("gate", kill=True)
            else:
                site.end("gate")
            parts.append(seen.result().data)
        if turn < 2:
            _started_again(site)
    return _arrived(parts, flood)


def _started_again(site: Site) -> None:
    """As whoever supervises a role does: what the killed one held may be free a moment later."""
    for _ in range(4):
        with contextlib.suppress(PeerError):
            site.start("gate")
            return
        time.sleep(1)
    site.start("gate")


def most_in_window(seen: Seen, window_s: float) -> int:
    """The most bytes that came within any half-open interval of that length."""
    most = count = first = 0
    for at_s, part in seen.reads:
        count += len(part)
        while seen.reads[first][0] <= at_s - window_s:
            count -= len(seen.reads[first][1])
            first += 1
        most = max(most, count)
    return most


class Lateness:
    """How late this process is at most: a thread that wants to wake at every beat. What was read
    late seems to have left late, so that an interval must be taken so much shorter."""

    def __init__(self) -> None:
        self.most_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Lateness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        before_s = time.monotonic()
        while not self._over.wait(BEAT_S):
            now_s = time.monotonic()
            self.most_s = max(self.most_s, now_s - before_s - BEAT_S)
            before_s = now_s


def _windows(site: Site, effort: Effort, seconds: float, rest_s: float) -> Decoded:
    flood, links = Flood(effort), []
    site.inside.raw = flood.raw
    with Lateness() as lateness:
        deadline = time.monotonic() + seconds
        time.sleep(rest_s)
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), site.dial() as sock:
                sock.sendall(b"\x00")
                links.append(watch(sock, max(0.1, deadline - time.monotonic())))
            time.sleep(0.05)
    site.end("gate")
    whole = Seen([read for link in links for read in link.reads])
    late_s = JITTER_S + lateness.most_s
    reading = _arrived([link.data for link in links if link.reads], flood)
    if late_s > site.window_s / 2:  # an interval so much shorter would say nothing
        reading.note = f"the reader was {late_s:.1f} s late: nothing is known of windows"
        return reading
    most = most_in_window(whole, site.window_s - late_s)
    reading.note = (
        f"at most {most:,} of {site.cap_bytes:,} bytes in {site.window_s:g} s, "
        f"less {late_s:.2f} s by which the reader was late"
    )
    if most > site.cap_bytes:
        reading.broken = f"{most:,} bytes left within {site.window_s:g} s, {site.cap_bytes:,} may"
    return reading


@attack("window-edges", "ledger", by_ledger=True)
def window_edges(site: Site, effort: Effort) -> Decoded:
    """A rolling window filled at its end, and the next one at its beginning.

    Sees: all bytes at the gate's port, with their moments.
    Decodes: eight bits a byte; besides, the most in any interval of a window's length is compared
    with its cap.
    Charged: bytes stay in a window for all of its length from their settlement on.
    """
    return _windows(site, effort, site.window_s * 2.2, site.window_s * 0.9)


@attack("window-rhythm", "ledger", by_ledger=True)
def window_rhythm(site: Site, effort: Effort) -> Decoded:
    """A flood at every moment for three windows, so that each granule is taken as it falls free.

    Sees: all bytes at the gate's port, with their moments.
    Decodes: eight bits a byte; besides, the most in any interval of a window's length is compared
    with its cap.
    Charged: bytes stay in a window for all of its length from their settlement on.
    """
    return _windows(site, effort, site.window_s * 3.0, 0.0)


class SteppedClock(SystemClock):
    """The machine's, moved by whoever is root on it."""

    step_ms = 0

    def boot_ms(self) -> int:
        return super().boot_ms() + self.step_ms


def _granted(site: Site, clock: SteppedClock) -> tuple[int, str]:
    """Bytes granted at all times of a clock that is moved, and why no more were."""
    gate = site.gate_config
    host, _, port = gate.witness.rpartition(":")
    verifier = witness_verifier(bytes.fromhex(gate.witness_key))
    witness = HttpWitness(host, int(port), verifier)
    ledger = Ledger.open(LedgerPlace(site.state), witness=witness, clock=clock)
    granted, refusals = 0, []
    try:
        ledger.recover_dead_leases()
        for step_ms in (0, 3_600_000, -3_600_000, 0):
            clock.step_ms = step_ms
            while granted < 4 * site.cap_bytes:
                lease = ledger.acquire("answers", site.cap_bytes)
                if isinstance(lease, Denied):
                    refusals.append(lease.reason)
                    break
                ledger.settle(lease, lease.size_bytes)
                granted += lease.size_bytes
    finally:
        ledger.close()
    return granted, "then " + ", ".join(refusals)


@attack("clock-moved", "ledger", by_ledger=True)
def clock_moved(site: Site, effort: Effort) -> Decoded:
    """The gate's clock set ahead by an hour and back again, to open a full window.

    Sees: what the ledger grants to a gate whose clock is his.
    Decodes: every byte granted could be his.
    Charged: what is granted; beyond the window's cap nothing may be, whatever the clock says.
    """
    site.end("gate")
    began_s = time.monotonic()
    granted, refusals = site.run_by_gate(lambda: _granted(site, SteppedClock()))
    passed = int((time.monotonic() - began_s) / site.window_s) + 1
    bits = as_bits(bytes(granted))
    reading = Decoded(bits, bits, note=f"{granted:,} bytes granted; {refusals}")
    if granted > passed * site.cap_bytes:
        reading.broken = f"{granted:,} bytes were granted within {passed} windows"
    return reading


@attack("ledger-restored", "ledger", by_ledger=True)
def ledger_restored(site: Site, effort: Effort) -> Decoded:
    """A copy of the ledger put back after its bytes have left.

    Sees: the bytes at the gate's port of the restored ledger.
    Decodes: eight bits a byte.
    Charged: the witness has seen the newer head, so that no gate starts on the older one.
    """
    site.end("gate")
    folder, before_bits = LedgerPlace(site.state).folder, site.settled_bits()
    copy = site.state / "copy"
    shutil.copytree(folder, copy)
    flood = Flood(effort)
    site.inside.raw = flood.raw

    def some() -> bytes:
        site.start("gate")
        with site.dial() as sock:
            sock.sendall(b"\x00")
            data = watch(sock, 0.5, 8000).data
        site.end("gate")
        return data

    first = some()
    spent_bits = site.spent_bits() - before_bits
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    again, note = b"", ""
    try:
        again = some()
    except PeerError as error:
        note = "refused: " + error.message[-200:]
        if "rolled back" in error.message:
            note = "refused: the ledger was rolled back or restored"
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    reading = _arrived([one for one in (first, again) if one], flood)
    reading.note = note
    if again:
        reading.broken = f"{len(again):,} bytes left on a ledger that was put back"
    return replace(reading, charged_bits=spent_bits)
