"""Attacks in when things happen: bytes, silences, ends, and how long work takes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from narrows.coding.events import Coding, Finish, Finished, Opened, Tokens
from narrows.enclave.backend import BackendRequest
from narrows.redteam.attack import Effort, attack
from narrows.redteam.client import watch
from narrows.redteam.inside import CutLink, Step
from narrows.redteam.payload import Decoded, symbols, threshold
from narrows.redteam.site import Site

LONG_S = 30.0
PHASE_BINS = 8
REFUSED_S = 0.8


def drip(site: Site, gaps_s: Sequence[float], data: bytes) -> list[tuple[float, int]]:
    """Byte k of ``data`` said ``gaps_s[k]`` after the one before; moment and value of each as
    they came. A dead link's bytes are missing."""

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        loop = asyncio.get_running_loop()
        due = loop.time()
        for gap_s, byte in zip(gaps_s, data, strict=True):
            due += gap_s
            await asyncio.sleep(max(0.0, due - loop.time()))
            writer.write(bytes([byte]))
        await writer.drain()
        await reader.read()

    site.inside.raw = raw
    with site.dial() as sock:
        sock.sendall(b"\x00")
        seen = watch(sock, sum(gaps_s) + LONG_S, len(data))
    return [(at_s, byte) for at_s, part in seen.reads for byte in part]


@attack("timing-across-ticks", "moments")
def timing_across_ticks(site: Site, effort: Effort) -> Decoded:
    """A byte after one to four steps of silence.

    Sees: the bytes at the gate's port, and in which tick each came.
    Decodes: two bits by the length of the silence, eight by the byte.
    Charged: the byte, and each tick by a code whose lengths keep Kraft's inequality.
    """
    step_s = 4 * site.tick_ms / 1000
    values = [effort.secret.take(10) for _ in range(effort.times(32))]
    gaps = [step_s * (1 + (value >> 8)) for value in values]
    came = drip(site, [*gaps[:1], *gaps], bytes([0, *(value & 255 for value in values)]))
    got = [
        (min(3, max(0, round((at_s - before_s) / step_s) - 1)) << 8) | byte
        for (before_s, _), (at_s, byte) in itertools.pairwise(came)
    ]
    return Decoded(effort.secret.taken, symbols(got, 10), widths=(2, 8))


@attack("timing-within-tick", "moments")
def timing_within_tick(site: Site, effort: Effort) -> Decoded:
    """A byte early or late in its tick.

    Sees: when each byte came, to the microsecond.
    Decodes: the phase of each moment in the grid; half of the symbols teach the receiver which
    phase stands for which bit.
    Charged: the byte and its tick; the gate sends on its grid alone, so the phase should say
    nothing.
    """
    count, tick_s = effort.times(48), site.tick_ms / 1000
    pilot = [effort.rng.getrandbits(1) for _ in range(count)]
    secrets = [effort.secret.take(1) for _ in range(count)]
    places = [8 * tick_s * n + bit * tick_s / 2 for n, bit in enumerate([*pilot, *secrets], 1)]
    gaps = [b - a for a, b in zip([0.0, *places], places, strict=False)]
    came = drip(site, gaps, bytes(len(gaps)))
    phases = [int(at_s / tick_s % 1 * PHASE_BINS) for at_s, _ in came]
    votes = [0] * PHASE_BINS
    for phase, bit in zip(phases, pilot, strict=False):
        votes[phase] += 1 if bit else -1
    got = [int(votes[phase] > 0) for phase in phases[count:]]
    return Decoded(secrets, got, note="phases alone").silent("the phase in a tick")


LINKS = 4


@attack("which-link", "moments")
def which_link(site: Site, effort: Effort) -> Decoded:
    """Four links, of which one says a byte at each step.

    Sees: on which link, and in which tick, each byte came.
    Decodes: two bits by the link, eight by the byte.
    Charged: the byte, and in a tick that is not empty of each link whether it was silent.
    """
    step_s = 6 * site.tick_ms / 1000
    values = [effort.secret.take(10) for _ in range(effort.times(32))]
    over = asyncio.Event()

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place = (await reader.readexactly(1))[0]
        named[place] = writer
        await over.wait() if place else await tell()

    async def tell() -> None:
        while len(named) < LINKS:
            await asyncio.sleep(0.01)
        for value in values:
            named[value >> 8].write(bytes([value & 255]))
            await asyncio.sleep(step_s)
        await asyncio.sleep(0.2)
        over.set()

    named: dict[int, asyncio.StreamWriter] = {}
    site.inside.raw = raw
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(LINKS) as pool:
        socks = [stack.enter_context(site.dial()) for _ in range(LINKS)]
        seen = [pool.submit(watch, sock, len(values) * step_s + LONG_S) for sock in socks]
        for place, sock in enumerate(socks):
            sock.sendall(bytes([place]))
        came = [
            (at_s, place << 8 | byte)
            for place, one in enumerate(seen)
            for at_s, part in one.result().reads
            for byte in part
        ]
    got = symbols([value for _, value in sorted(came)], 10)
    return Decoded(effort.secret.taken, got, widths=(2, 8))


def _ends(site: Site, begin: Callable[[int], None], secrets: Sequence[int]) -> list[float]:
    """How long a link lived, one for each secret."""
    lived = []
    for secret in secrets:
        begin(secret)
        with site.dial() as sock:
            began_s = time.monotonic()
            sock.sendall(b"\x00")
            ended_s = watch(sock, LONG_S).ended_s
        lived.append((ended_s or time.monotonic()) - began_s)
    return lived


@attack("link-ends", "moments")
def link_ends(site: Site, effort: Effort) -> Decoded:
    """Links that end after one to four steps, without a byte.

    Sees: when a link that he dialled ends.
    Decodes: two bits by how long it lived, to which he listens first for the shortest.
    Charged: each end 10 bits, and each tick of silence; ends are rationed.
    """
    step_s = 20 * site.tick_ms / 1000
    hold = [0.0]

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        await asyncio.sleep(hold[0])

    def begin(secret: int) -> None:
        hold[0] = step_s * secret + 0.01

    site.inside.raw = raw
    secrets = [effort.secret.take(2) for _ in range(effort.times(16))]
    shortest_s = sorted(_ends(site, begin, [0] * 5))[2]
    lived = _ends(site, begin, secrets)
    got = [min(3, max(0, round((lived_s - shortest_s) / step_s))) for lived_s in lived]
    return Decoded(effort.secret.taken, symbols(got, 2))


@attack("refusals", "moments")
def refusals(site: Site, effort: Effort) -> Decoded:
    """The enclave's port open or closed, and the enclave's process coming and going.

    Sees: whether a link that he dials lives or ends at once.
    Decodes: a bit for each dial.
    Charged: a refusal looks like any end, 10 bits, and is rationed.
    """
    secrets = [effort.secret.take(1) for _ in range(effort.times(8))]
    got: list[int | None] = []
    for secret in secrets:
        site.inside.listen(1, not secret)
        with site.dial() as sock:
            got.append(int(watch(sock, REFUSED_S).ended_s is not None))
    return Decoded(effort.secret.taken, got)


@attack("back-pressure", "moments")
def back_pressure(site: Site, effort: Effort) -> Decoded:
    """An enclave that reads, or does not.

    Sees: how long the gate takes six megabytes from him.
    Decodes: by a threshold that known bits have set.
    Charged: nothing by itself: the gate always reads, and what it must say of it is a link's end.
    """
    reads = [True]

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while reads[0] and await reader.read(1 << 16):
            pass
        await asyncio.sleep(LONG_S)

    site.inside.raw = raw

    def take(bit: int) -> float:
        reads[0] = not bit
        with site.dial() as sock:
            began_s = time.monotonic()
            with contextlib.suppress(OSError):
                sock.sendall(bytes(6 << 20))
            return time.monotonic() - began_s

    return _levels(effort, take, effort.times(24)).silent("back-pressure")


def _levels(effort: Effort, measure: Callable[[int], float], count: int, note: str = "") -> Decoded:
    """A bit and a measure each: known ones first, from which the threshold is learned."""
    known = [number % 2 for number in range(count)]
    pilot = [(bit, measure(bit)) for bit in known]
    effort.learned()
    secrets = [effort.secret.take(1) for _ in range(count)]
    got = threshold(pilot, [measure(bit) for bit in secrets])
    return Decoded(secrets, got, note=note)


@attack("lost-link", "moments")
def lost_link(site: Site, effort: Effort) -> Decoded:
    """A link that is cut at a chosen token of an answer, which then goes on over the next one.

    Sees: the stall in a client's stream.
    Decodes: three bits by the token before it.
    Charged: the link's end, the greeting of the next one, and what of the answer has to be said
    again.
    """
    secrets = [effort.secret.take(3) for _ in range(effort.times(2))]
    text, turn, cut = b"abcdefghijklmnop", [0], [False]

    def script(request: BackendRequest) -> list[Step]:
        steps: list[Step] = [Opened(Coding.PLAIN)]
        for place in range(len(request.resume), len(text)):
            steps += [Tokens((text[place],)), 0.05]
            if place == 4 + secrets[turn[0]] and not cut[0]:
                cut[0] = True
                return [*steps, 0.3, CutLink(), LONG_S]
        return [*steps, Finished(Finish.STOP)]

    got: list[int | None] = []
    for number in range(len(secrets)):
        turn[0], cut[0] = number, False
        site.inside.script = script
        pieces = site.client.stream("stall", max_tokens=64).pieces
        said, stalls = 0, []
        for (before_s, delta), (at_s, _) in itertools.pairwise(pieces):
            said += len(delta.get("content") or "")
            stalls.append((at_s - before_s, said))
        place = max(stalls)[1] - 5 if stalls else -1
        got.append(place if 0 <= place < 8 else None)
    return Decoded(effort.secret.taken, symbols(got, 3))


@attack("work-bombs", "moments")
def work_bombs(site: Site, effort: Effort) -> Decoded:
    """Few bytes that hold much work for the edge's decoder, or few that hold none.

    Sees: how long another answer takes meanwhile.
    Decodes: by a threshold that known bits have set.
    Charged: the bomb's bytes; the edge decodes in batches of bounded work between which it
    answers others.
    """
    tokens, asked = (111,) * 800, threading.Event()

    def script(request: BackendRequest) -> list[Step]:
        bomb = request.body["messages"][-1]["content"] == "1"
        asked.set()
        return [Opened(Coding.PLAIN), Tokens(tokens if bomb else tokens[:1]), Finished(Finish.STOP)]

    site.inside.script = script

    def measure(bit: int) -> float:
        asked.clear()
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(site.client.ask, str(bit))
            asked.wait(LONG_S)  # the bomb is on its way
            took_s = site.client.ask("0").took_s
            other.result()
        return took_s

    return _levels(effort, measure, effort.times(4), "the wait of another answer")


@attack("state-port", "moments")
def state_port(site: Site, effort: Effort) -> Decoded:
    """Traffic in bursts, to move what the gate's state port says or when.

    Sees: the state port's line and how long it takes.
    Decodes: by the line, where the lines of known ones and zeros differ, else by a threshold of the
    delay that known bits have set.
    Charged: the bursts' bytes; the line follows from what was charged, and leaves on the grid.
    """
    burst = [0]

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1):
            writer.write(bytes(burst[0]))
            await writer.drain()

    site.inside.raw = raw
    lines: list[str] = []

    def measure(bit: int) -> float:
        burst[0] = 1000 if bit else 0
        with site.dial() as sock:
            sock.sendall(b"\x00")
            time.sleep(0.02)
            began_s = time.monotonic()
            lines.append(site.state_line())
            took_s = time.monotonic() - began_s
            watch(sock, 1.0, burst[0]) if bit else None
        return took_s

    count = effort.times(12)
    reading = _levels(effort, measure, count)
    zeros, ones = set(lines[:count:2]), set(lines[1:count:2])
    if not zeros & ones:
        known = dict.fromkeys(zeros, 0) | dict.fromkeys(ones, 1)
        reading.got = [known.get(line) for line in lines[count:]]
    reading.note = f"{len(set(lines))} different lines"
    return reading
