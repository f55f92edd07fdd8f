"""The standing cost: load is a channel that nobody counts, so time is charged."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.gate_fakes import FAST, FakeLedger, enclave, read_all, running_gate
from narrows.errors import InputError, PeerError
from narrows.gate.config import GateConfig, PortConfig
from narrows.gate.machine.devices import Cards, find_cards
from narrows.gate.machine.surroundings import Surroundings, View
from narrows.gate.server import Gate
from narrows.gate.standing import AHEAD_NS, BLOCK_BYTES, StandingCost
from narrows.gate.timing import UNITS_PER_BYTE
from narrows.ledger.api import Denied

TWO = Cards(("inner",), ("outer",), True)
LOOPBACK = Cards((), (), False)


def view(millibits: int, refusal: str = "") -> View:
    return View(TWO, millibits, millibits, "", "", refusal)


class Scripted(Surroundings):
    """Says what the test wants."""

    def __init__(self, config: GateConfig, now: View) -> None:
        super().__init__(config)
        self.now = now

    def look(self) -> View:
        return self.now


@given(st.lists(st.tuples(st.integers(0, 10**11), st.sampled_from([0, 1, 500, 50_000]))))
def test_time_is_never_charged_too_low_and_in_advance(
    steps: list[tuple[int, int]],
) -> None:
    cost, now, bought, used, rate = StandingCost(0), 0, 0, Fraction(0), 0
    for elapsed, next_rate in steps:
        now += elapsed
        bought += cost.due_units(now, next_rate)
        used += Fraction(elapsed * max(rate, next_rate), 10**12)
        rate = next_rate
        ahead = Fraction(AHEAD_NS * rate, 10**12)
        paid_bits = Fraction(bought * 8, UNITS_PER_BYTE)
        assert bought % (BLOCK_BYTES * UNITS_PER_BYTE) == 0
        assert used + ahead <= paid_bits
        assert paid_bits < used + Fraction(AHEAD_NS * 50_000, 10**12) + BLOCK_BYTES * 8 + 1


@pytest.mark.parametrize(
    ("millibits", "low", "high"), [(500, 5_400, 5_700), (50_000, 540_000, 540_300)]
)
def test_a_day_costs_what_the_documents_say(millibits: int, low: int, high: int) -> None:
    cost, units = StandingCost(0), 0
    for second in range(86_401):
        units += cost.due_units(second * 10**9, millibits)
    assert low <= units // UNITS_PER_BYTE <= high


def test_nothing_is_charged_where_there_is_no_card() -> None:
    cost = StandingCost(0)
    assert cost.due_units(10**15, 0) == 0


def test_a_gate_without_a_link_pays_for_time(tmp_path: Path) -> None:
    """Kernel and state port answer strangers, too. Restarts do not make it cheaper."""
    ledger = FakeLedger(1 << 20)

    async def scenario() -> None:
        config = FAST
        surroundings = Scripted(config, view(50_000_000))  # 2,500 bytes a second
        async with running_gate(ledger, 1, tmp_path, config, surroundings) as gate:
            meter = gate.ports[0].meter
            while meter.timing_bytes < 20 * BLOCK_BYTES:
                await asyncio.sleep(0.02)
            assert meter.sent_bytes == 0
        assert ledger.spent_bytes == meter.timing_bytes >= 20 * BLOCK_BYTES
        assert not ledger.open

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_loopback_alone_costs_nothing(tmp_path: Path) -> None:
    ledger = FakeLedger(1 << 20)

    async def scenario() -> None:
        async with running_gate(ledger, 1, tmp_path) as gate:
            await asyncio.sleep(1.3)
            assert gate.stats()["machine"] == {
                "state": "ok",
                "ambient_bits_per_s": 0.0,
                "shared": "",
                "fault": "",
            }
        assert ledger.acquired == 0

    asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.parametrize("pacing", ["variable", "constant"])
def test_time_that_could_not_be_paid_is_paid_first(tmp_path: Path, pacing: str) -> None:
    """What was owed while the ledger refused is on the next lease, link or not, and a gate that
    owes more than a lease does not die of it."""
    ledger = FakeLedger(1 << 20)

    async def scenario() -> None:
        config = replace(FAST, pacing=pacing, constant_bytes=64)
        surroundings = Scripted(config, view(80_000_000))
        ledger.refuse = Denied("window", "not now")

        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            await reader.read()

        async with (
            enclave(speak) as port,
            running_gate(ledger, port, tmp_path, config, surroundings) as gate,
        ):
            meter = gate.ports[0].meter
            while meter.due_bytes(0) < 100 * BLOCK_BYTES:
                await asyncio.sleep(0.02)
            ledger.refuse = None
            owed = meter.due_bytes(0)
            surroundings.now = view(0)
            while meter.timing_bytes < owed:  # a new link is refused for a second
                reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports[0].listening)
                try:
                    async with asyncio.timeout(1):
                        await reader.readexactly(5)
                except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
                    pass
                finally:
                    writer.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_machine_that_fails_ends_the_links_and_recovers(tmp_path: Path) -> None:
    ledger = FakeLedger(1 << 20)

    async def scenario() -> None:
        surroundings = Scripted(FAST, view(0))

        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            await reader.read()

        async def dial(gate: Gate) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports[0].listening)
            try:
                return await reader.read(5)
            except ConnectionError:
                return b""
            finally:
                writer.close()

        async with (
            enclave(speak) as port,
            running_gate(ledger, port, tmp_path, FAST, surroundings) as gate,
        ):
            served = gate.ports[0]
            reader, writer = await asyncio.open_connection("127.0.0.1", served.listening)
            assert await reader.readexactly(5) == b"hello"
            surroundings.now = view(0, "the filter is gone")
            assert await read_all(reader) == b""  # ended by the gate
            writer.close()
            assert gate.state().ports["answers"].state == "machine"
            assert await dial(gate) == b""
            assert served.meter.last_detail == "the filter is gone"
            surroundings.now = view(0)
            while served.verdict.state != "ok":
                await asyncio.sleep(0.02)
            while await dial(gate) != b"hello":
                await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(scenario(), 60))


# the rate -----------------------------------------------------------------------------


class Seen:
    """Surroundings whose machine is made up."""

    def __init__(self, cards: Cards, shared: str = "", fault: str = "", **config: object) -> None:
        self.said: list[str] = []
        self.surroundings = Surroundings(GateConfig(**config), self.said.append, find=self._find)  # type: ignore[arg-type]
        self.cards, self.shared, self.fault = cards, shared, fault
        self.surroundings._shared = lambda cards: self.shared  # type: ignore[method-assign]
        self.surroundings._fault = lambda cards: self.fault  # type: ignore[method-assign]

    def _find(self, config: GateConfig) -> Cards:
        return self.cards


@pytest.mark.parametrize(
    ("cards", "shared", "millibits"),
    [
        (LOOPBACK, "", 0),
        (TWO, "", 500),
        (TWO, "core 1", 50_000),
        (Cards((), ("outer",), True), "here", 50_000),
    ],
)
def test_the_bound_follows_from_the_machine(cards: Cards, shared: str, millibits: int) -> None:
    assert Seen(cards, shared).surroundings.start().millibits_per_s == millibits


def test_a_configured_rate_is_never_below_the_bound() -> None:
    for cards, shared, low in ((TWO, "", 0.4), (TWO, "core 1", 49.0), (TWO, "", 0)):
        with pytest.raises(InputError, match="ambient_bits_per_s"):
            Seen(cards, shared, ambient_bits_per_s=low).surroundings.start()
    seen = Seen(TWO, "", ambient_bits_per_s=3)
    assert seen.surroundings.start().millibits_per_s == 3_000
    seen.shared = "core 1"
    assert seen.surroundings.look().millibits_per_s == 50_000  # at once, while it runs


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf"), 1e7, "none", "0"])
def test_rates_that_mean_nothing_are_refused(rate: object) -> None:
    with pytest.raises(InputError):
        GateConfig(ambient_bits_per_s=rate).check()  # type: ignore[arg-type]


def test_shared_cores_are_a_warning_or_a_refusal() -> None:
    warned = Seen(TWO, "inner and outer share core 1")
    assert not warned.surroundings.start().refusal
    assert warned.said == ["cores: inner and outer share core 1"]
    warned.surroundings.look()
    assert len(warned.said) == 1
    warned.shared = ""
    warned.surroundings.look()
    assert len(warned.said) == 2
    refused = Seen(TWO, "inner and outer share core 1", cores="refuse")
    with pytest.raises(InputError, match="share core 1"):
        refused.surroundings.start()
    refused.shared = ""
    assert not refused.surroundings.start().refusal
    refused.shared = "again"
    assert "again" in refused.surroundings.look().refusal


def test_a_machine_without_a_filter_is_refused_by_default() -> None:
    with pytest.raises(InputError, match="no filter"):
        Seen(TWO, "", "no filter").surroundings.start()
    warned = Seen(TWO, "", "no filter", machine="warn")
    assert not warned.surroundings.start().refusal
    assert warned.said == ["machine: no filter"]


def test_what_cannot_be_found_out_counts_as_the_worst() -> None:
    def lost(config: GateConfig) -> Cards:
        raise PeerError("no route leads to 10.2.0.2")

    made = Surroundings(GateConfig(machine="warn"), find=lost)
    assert made.start().millibits_per_s == 50_000
    with pytest.raises(InputError, match="no route"):
        Surroundings(GateConfig(), find=lost).start()


def test_cards_of_a_machine_that_has_loopback_only() -> None:
    assert find_cards(GateConfig()) == LOOPBACK
    with pytest.raises(PeerError, match="no device"):
        find_cards(GateConfig(ports=(PortConfig(listen_host="192.0.2.77"),)))
