"""The channel that load is, measured on this machine with cables of its own.

    outside ══ outer ┌ gate ┐ inner ══ gate0 enclave

The sender, in the enclave's namespace, floods ``inner`` with frames that the filter drops, or
rests: a random bit for each symbol. The receiver, outside, sends small segments on a connection
to the gate and times when each is acknowledged. The first half of the symbols trains the
receiver, which then decides each symbol of the second half by the likelihood of all that it saw
in it (round trips in bins, each symbol's count of them): what it gets wrong gives the bound

    (1 - H2(error rate)) bits a symbol

on what such a receiver reads. Set-ups: ``shared`` (frames of both cables and the gate's process on
one core), ``apart`` (the enclave's frames on another one). Cores are set by RPS, as a cable has no
interrupts; sender and receiver are pinned to the cores whose work they cause.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import math
import multiprocessing
import os
import random
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from narrows.errors import InputError, PeerError
from narrows.isolate import network as net
from narrows.isolate.namespaces import CLONE_NEWNET, NetNamespace, setns

SETUPS = ("shared", "apart")
SYMBOLS_S = (0.0025, 0.005, 0.02)
TAG = 0x0F10AD
BINS, BIN_RATIO, FIRST_BIN_S = 48, 1.2, 2e-6
PORT = net.GATE_PORTS[0]
_START_S, _ACK_TIMEOUT_S, _WAIT_S, _PROBE_EVERY_S = 0.2, 0.5, 30.0, 0.0003
_SOL_PACKET, _QDISC_BYPASS, _BURST_FRAMES = 263, 20, 64
_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class LoadChannel:
    """What was read. ``bits_per_s``: by the error rate; ``sure_bits_per_s``: with 95 %
    confidence no less."""

    setup: str
    symbol_s: float
    symbols: int
    errors: int
    bits_per_s: float
    sure_bits_per_s: float
    frames_per_s: float
    idle_round_trip_us: float
    busy_round_trip_us: float


@dataclass(frozen=True)
class Probe:
    """One segment: when it was sent (``CLOCK_MONOTONIC``) and how long its answer took."""

    sent_s: float
    took_s: float


def run(
    seconds: float, seed: int, say: Callable[[str], None], setups: Sequence[str] = SETUPS
) -> dict[str, float]:
    """For each set-up the best of some lengths of a symbol, by name."""
    result: dict[str, float] = {"seed": seed}
    for setup in setups:
        found = []
        for symbol_s in SYMBOLS_S:
            say(f"{setup}: symbols of {symbol_s * 1000:.0f} ms")
            found.append(measure(setup, seconds / len(SYMBOLS_S), symbol_s, seed))
        best = max(found, key=lambda channel: channel.bits_per_s)
        result |= {
            f"{setup}_bits_per_s": round(best.bits_per_s, 3),
            f"{setup}_sure_bits_per_s": round(best.sure_bits_per_s, 3),
            f"{setup}_symbol_ms": best.symbol_s * 1000,
            f"{setup}_symbols": best.symbols,
            f"{setup}_errors": best.errors,
            f"{setup}_frames_per_s": round(best.frames_per_s),
            f"{setup}_idle_round_trip_us": round(best.idle_round_trip_us, 1),
            f"{setup}_busy_round_trip_us": round(best.busy_round_trip_us, 1),
        }
    return result


def measure(setup: str, seconds: float, symbol_s: float, seed: int) -> LoadChannel:
    """One length of a symbol. ``InputError``: this machine cannot."""
    cores = sorted(os.sched_getaffinity(0))
    if os.geteuid() != 0 or len(cores) < 2:
        raise InputError("the load channel is measured by root, on two cores or more")
    symbols = 2 * max(8, int(seconds / symbol_s / 2))
    chance = random.Random(seed)
    bits = [chance.random() < 0.5 for _ in range(symbols)]
    gate_core, other = cores[0], cores[-1]
    inner_core = gate_core if setup == "shared" else other
    with net.wired(TAG) as network:
        for namespace, device, core in (
            (network.gate, "inner", inner_core),
            (network.enclave, "gate0", inner_core),
            (network.gate, net.OUTER, gate_core),
        ):
            net.set_rps(namespace, device, frozenset({core}))
        network.gate.tool(
            ["ip", "route", "replace", network.host, "dev", net.OUTER, "quickack", "1"]
        )
        address = (network.gate_outer, PORT)
        with (
            _child(_listen, network.gate, gate_core, (address,)),
            _child(_flood, network.enclave, other, (bits, symbol_s)) as sender,
            _child(_probe, None, gate_core, (address, symbols * symbol_s)) as receiver,
        ):
            start_s = time.monotonic() + _START_S
            sender.send(start_s)
            receiver.send(start_s)
            probes: list[Probe] = _result(receiver, symbols * symbol_s + _WAIT_S)
            frames: int = _result(sender, _WAIT_S)
    return decode(setup, bits, probes, frames, start_s, symbol_s)


def decode(
    setup: str,
    bits: Sequence[bool],
    probes: Sequence[Probe],
    frames: int,
    start_s: float,
    symbol_s: float,
) -> LoadChannel:
    """Learn from the first half of ``bits``, decide the second half, count the errors."""
    seen: list[list[int]] = [[] for _ in bits]
    for probe in probes:
        index = math.floor((probe.sent_s - start_s) / symbol_s)
        if 0 <= index < len(bits):
            seen[index].append(_bin(probe.took_s))
    half = len(bits) // 2
    scores = {bit: _model(bit, bits[:half], seen[:half]) for bit in (False, True)}
    tested = list(zip(bits[half:], seen[half:], strict=True))
    errors = sum((scores[True](one) > scores[False](one)) != bit for bit, one in tested)
    trips = {
        bit: [
            p.took_s
            for p in probes
            if 0 <= (i := math.floor((p.sent_s - start_s) / symbol_s)) < len(bits)
            and bits[i] is bit
        ]
        for bit in (False, True)
    }
    rate = errors / len(tested)
    sure = min(0.5, rate + math.sqrt(math.log(20) / 2 / len(tested)))  # Hoeffding
    return LoadChannel(
        setup,
        symbol_s,
        len(tested),
        errors,
        _capacity(rate) / symbol_s,
        _capacity(sure) / symbol_s,
        frames / max(1, sum(bits)) / symbol_s,
        _median(trips[False]) * 1e6,
        _median(trips[True]) * 1e6,
    )


def _model(
    bit: bool, bits: Sequence[bool], seen: Sequence[Sequence[int]]
) -> Callable[[Sequence[int]], float]:
    """Log-likelihood of a symbol's round trips: their bins, and how many there are."""
    mine = [one for said, one in zip(bits, seen, strict=True) if said is bit]
    counts = [1.0] * BINS
    for one in mine:
        for place in one:
            counts[place] += 1
    total = sum(counts)
    log_p = [math.log(count / total) for count in counts]
    sizes = [len(one) for one in mine] or [0]
    mean = sum(sizes) / len(sizes)
    variance = sum((size - mean) ** 2 for size in sizes) / len(sizes) + 1.0

    def score(one: Sequence[int]) -> float:
        trips = sum(log_p[place] for place in one) / max(1, len(one)) * math.sqrt(max(1, len(one)))
        return trips - (len(one) - mean) ** 2 / (2 * variance) - math.log(variance) / 2

    return score


def _bin(took_s: float) -> int:
    ratio = math.log(max(took_s, FIRST_BIN_S) / FIRST_BIN_S, BIN_RATIO)
    return min(BINS - 1, int(ratio))


def _capacity(error_rate: float) -> float:
    rate = min(error_rate, 0.5)  # worse than chance: nothing was learned
    if rate == 0:
        return 1.0
    return 1 + rate * math.log2(rate) + (1 - rate) * math.log2(1 - rate)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


# processes ----------------------------------------------------------------------------


@contextlib.contextmanager
def _child(
    target: Callable[..., None],
    namespace: NetNamespace | None,
    core: int,
    arguments: tuple[object, ...],
) -> Iterator[Connection]:
    """A process in ``namespace``, on one core, that has said that it is ready."""
    ours, theirs = _CONTEXT.Pipe()
    path = namespace.path if namespace is not None else ""
    words = (target, theirs, path, core, arguments)
    process = _CONTEXT.Process(target=_inside, args=words, daemon=True)
    process.start()
    theirs.close()
    try:
        if _result(ours, _WAIT_S) != "ready":
            raise PeerError("a part of the measurement does not start")
        yield ours
    finally:
        process.kill()
        process.join()
        ours.close()


def _inside(
    target: Callable[..., None],
    pipe: Connection,
    path: str,
    core: int,
    arguments: tuple[object, ...],
) -> None:
    os.sched_setaffinity(0, {core})
    if path:
        with open(path) as namespace:
            setns(namespace.fileno(), CLONE_NEWNET)
    target(pipe, *arguments)


def _listen(pipe: Connection, address: tuple[str, int]) -> None:
    """The gate: takes one connection and reads."""
    with socket.create_server(address) as server:
        pipe.send("ready")
        connection, _ = server.accept()
        while connection.recv(1 << 16):
            pass


def _flood(pipe: Connection, bits: Sequence[bool], symbol_s: float) -> None:
    """The enclave: frames of a kind that no protocol knows, for each bit that is 1."""
    frame = (
        bytes.fromhex((net.GATE_MAC + net.ENCLAVE_MAC).replace(":", "")) + b"\x88\xb5" + bytes(46)
    )
    libc, burst, frames = ctypes.CDLL(None), _burst(frame), 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.setsockopt(_SOL_PACKET, _QDISC_BYPASS, 1)
        sock.bind(("gate0", 0))
        pipe.send("ready")
        start_s = pipe.recv()
        for index, bit in enumerate(bits):
            end_s = start_s + (index + 1) * symbol_s
            time.sleep(max(0.0, end_s - symbol_s - time.monotonic()))
            while bit and time.monotonic() < end_s:
                frames += max(0, libc.sendmmsg(sock.fileno(), burst, _BURST_FRAMES, 0))
    pipe.send(frames)


def _burst(frame: bytes) -> ctypes.Array[Any]:
    """``frame`` many times, as sendmmsg takes it: a msghdr of 56 bytes and a length, each with a
    pointer to one and the same iovec."""
    data = ctypes.create_string_buffer(frame, len(frame))
    iovec = (ctypes.c_uint64 * 2)(ctypes.addressof(data), len(frame))
    words = [0, 0, ctypes.addressof(iovec), 1, 0, 0, 0, 0] * _BURST_FRAMES
    burst = (ctypes.c_uint64 * len(words))(*words)
    burst.kept = (data, iovec)  # type: ignore[attr-defined]
    return burst


def _probe(pipe: Connection, address: tuple[str, int], seconds: float) -> None:
    """The outside: one segment after the other, each timed until it is acknowledged."""
    probes = []
    with socket.create_connection(address, timeout=10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pipe.send("ready")
        start_s = pipe.recv()
        time.sleep(max(0.0, start_s - time.monotonic()))
        while (sent_s := time.monotonic()) < start_s + seconds:
            sock.send(b".")
            while _unacknowledged(sock) and time.monotonic() < sent_s + _ACK_TIMEOUT_S:
                pass
            probes.append(Probe(sent_s, time.monotonic() - sent_s))
            time.sleep(_PROBE_EVERY_S)
    pipe.send(probes)


def _unacknowledged(sock: socket.socket) -> int:
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])


def _result(pipe: Connection, timeout_s: float) -> Any:
    if not pipe.poll(timeout_s):
        raise PeerError("a part of the measurement does not answer")
    try:
        return pipe.recv()
    except EOFError as error:
        raise PeerError("a part of the measurement has ended") from error
