"""The real gate process with the real ledger and witness: killed, restarted, starved."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from narrows.bench.gate import LOAD_LINKS, kills
from narrows.bench.gate_peers import Child, Counter, Deployment, deployment, enclave_process
from narrows.errors import PeerError
from narrows.gate.config import GateConfig
from narrows.gate.outlet import SEND_BUFFER_BYTES
from narrows.ledger.changes import sign_change
from narrows.ledger.keys import load_private
from narrows.ledger.limits import Limits
from narrows.ledger.office.admin import apply_change
from narrows.ledger.office.propose import budget_document
from narrows.wire.gatestate import PortState, fetch_state


def state_of(gate: Child) -> PortState:
    return asyncio.run(fetch_state("127.0.0.1", gate.facts["state_port"])).ports["answers"]


def stop(gate: Child) -> None:
    gate.process.terminate()
    assert gate.process.wait(20) == 0
    gate.kill()


@pytest.mark.slow
def test_killed_under_load_it_never_outspends_the_ledger() -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    result = kills(10, seed)
    assert result.overspend_bytes == 0
    assert result.arrived_bytes > 0
    in_kernels = LOAD_LINKS * 4 * SEND_BUFFER_BYTES  # charged and written, then thrown away
    assert result.stranded_bytes <= GateConfig().max_lease_bytes + in_kernels


@pytest.mark.slow
def test_killed_near_the_end_of_a_small_budget() -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    result = kills(4, seed, budget_bytes=300_000)
    assert result.overspend_bytes == 0
    assert result.arrived_bytes <= result.committed_bytes <= 300_000


@pytest.mark.torture
def test_killed_a_thousand_times() -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    assert kills(1000, seed, progress=print).overspend_bytes == 0


def test_a_budget_of_2000_bytes_is_2000_bytes_whatever_restarts() -> None:
    with deployment(2_000) as site, enclave_process("flood") as inside:
        arrived = 0
        for orderly in (True, False, True):
            gate = site.start_gate(inside, tick_ms=5)
            arrived += Counter(gate.port).join()
            arrived += Counter(gate.port).join()
            assert state_of(gate).state == "depleted"
            if orderly:
                stop(gate)
            gate.kill()
        assert arrived <= site.committed_bytes() <= 2_000
        assert arrived > 1_900, "and nearly all of it is of use"


def test_two_ports_share_one_budget() -> None:
    with deployment(50_000) as site, enclave_process("flood") as inside:
        gate = site.start_gate(inside, accounts=("answers", "telemetry"))
        counters = [Counter(port) for port in gate.facts["ports"].values()]
        arrived = [counter.join() for counter in counters]
        stop(gate)
        assert sum(arrived) <= site.committed_bytes() <= 50_000
        assert sum(arrived) > 49_000


def test_a_witness_that_goes_stops_the_gate_within_its_leases() -> None:
    with deployment(1 << 40) as site, enclave_process("flood") as inside:
        gate = site.start_gate(inside)
        counter = Counter(gate.port)
        while counter.arrived_bytes < 100_000:
            time.sleep(0.01)
        site.server.vanish()
        arrived = counter.join(60)
        assert state_of(gate).state == "witness"
        assert Counter(gate.port).join() == 0
        stop(gate)
        assert 0 < arrived <= site.committed_bytes()
        with pytest.raises(PeerError):  # without its witness a gate does not even start
            site.start_gate(inside)


def test_a_full_window_is_named_and_opens_again() -> None:
    with deployment(1 << 30) as site, enclave_process("flood") as inside:
        lower(site, Limits(1 << 30, ((3_000, 20_000),)))
        gate = site.start_gate(inside, tick_ms=5)
        began = time.monotonic()
        first = Counter(gate.port).join()
        state = state_of(gate)
        assert (state.state, state.retry_after_s >= 1) == ("window", True)
        more = 0
        while not more:
            time.sleep(0.2)
            more = Counter(gate.port).join()
        windows = 2 + int((time.monotonic() - began) / 3)
        assert 0 < first <= 20_000
        assert first + more <= 20_000 * windows
        stop(gate)
        assert first + more <= site.committed_bytes()


def lower(site: Deployment, limits: Limits) -> None:
    """A signed change of the demonstration's budget."""
    with site.ledger() as ledger:
        operator = load_private(site.state / "ledger" / "operators" / "demo.key")
        accounts = {"answers": Limits(None)}
        document = budget_document(ledger.state(), "demo", limits, accounts, ledger.now_ms())
        apply_change(ledger, document, [sign_change(document, operator)])


def test_stats_hold_counts_alone(tmp_path: Path) -> None:
    with deployment(1 << 20) as site, enclave_process("echo") as inside:
        gate = site.start_gate(inside)
        stop(gate)
        stats = json.loads((site.state / "gate" / "stats.json").read_text())
        assert stats["kernel"] == {"state": "off"}
        assert "narrows gate: kernel backstop: off" in (site.state / "gate.log").read_text()
        assert set(stats["ports"]["answers"]) == {
            "account",
            "port",
            "state",
            "links",
            "links_opened",
            "sent_bytes",
            "timing_bytes",
            "denials",
            "last_denial",
            "last_detail",
        }


def test_wrong_flags_and_a_missing_ledger_end_with_a_word(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "narrows.cli.main", "gate", "--state", str(tmp_path)]
    cases: list[tuple[list[str], int]] = [
        ([], 2),
        (["--listen", "127.0.0.1:0"], 2),
        (["--listen", "x", "--enclave", "127.0.0.1:1"], 2),
        (["--listen", "0.0.0.0:0", "--enclave", "127.0.0.1:1"], 2),
        (["--listen", "127.0.0.1:0", "--enclave", "127.0.0.1:1"], 5),
    ]
    started = [
        subprocess.Popen(
            [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for flags, _ in cases
    ]
    ended = [(process, process.communicate()[1]) for process in started]
    for (process, said), (flags, code) in zip(ended, cases, strict=True):
        assert process.returncode == code, (flags, said)
        assert "narrows:" in said
        assert "Traceback" not in said
