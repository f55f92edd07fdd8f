"""Four gates, each as if on its own machine, on one budget in a real etcd of three members.

The gates are processes around a real ``Ledger`` (etcd_child.py), with clocks that differ in boot,
offset and rate; the bytes are counted where they arrive, at the read ends of their pipes. Members
of etcd are killed, stopped and started again under them.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ledger.etcd_cluster import Cluster, cluster, needs_etcd, wait_until
from ledger.ledger_helpers import Deployment, served
from ledger.test_kill import ENVIRONMENT, FarEnd
from narrows.ledger.limits import Limits
from narrows.ledger.office.verify import verify_log
from narrows.ledger.stores.etcd import EtcdStore
from narrows.ledger.stores.etcd_http import EtcdConfig
from narrows.ledger.witness.server import HttpWitness

pytestmark = needs_etcd

CHILD = Path(__file__).with_name("etcd_child.py")
GATES = 4
BUDGET_BYTES = 1 << 40


@pytest.fixture
def three() -> Iterator[Cluster]:
    with cluster(3) as made:
        yield made


class Gate:
    """A gate's process, what it said and what arrived from it."""

    child = CHILD
    more: tuple[str, ...] = ()  # words behind the configuration

    def __init__(self, folder: Path, log_key: Path, name: str, rng: random.Random) -> None:
        self.name, self.state = name, folder / name
        self.rng, self.far = rng, FarEnd()
        (self.state / "ledger").mkdir(parents=True)
        shutil.copy(log_key, self.state / "ledger" / "log.key")
        self.said = folder / f"{name}.said"
        self.offset_ms, self.rate = rng.randrange(10**10), 1 + rng.uniform(-3e-4, 3e-4)
        self.process: subprocess.Popen[bytes] | None = None
        self.drained = False

    def start(self, etcd: EtcdConfig, witness: HttpWitness) -> None:
        config = {
            "endpoints": self.rng.sample(etcd.endpoints, len(etcd.endpoints)),
            "prefix": etcd.prefix,
            "timeout_s": etcd.timeout_s,
            "tls": [str(f or "") for f in (etcd.ca_file, etcd.cert_file, etcd.key_file)],
            "offset_ms": self.offset_ms,
            "rate": self.rate,
        }
        with self.said.open("ab") as said:
            self.process = subprocess.Popen(
                [
                    sys.executable, str(self.child), str(self.state), str(witness._port),
                    witness.verifier.public.hex(), self.name, str(self.rng.randrange(10**9)),
                    json.dumps(config), *self.more,
                ],
                stdout=self.far.write_fd,
                stderr=said,
                env=ENVIRONMENT,
            )  # fmt: skip

    def lines(self, kind: str) -> list[list[str]]:
        whole = self.said.read_text().rpartition("\n")[0]
        return [line.split(" ") for line in whole.split("\n") if line.startswith(kind)]

    @property
    def leases(self) -> int:
        return len(self.lines("lease"))

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(60) == 0, self.said.read_text()[-2000:]

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def end(self) -> None:
        """Nothing of it remains running."""
        self.kill()
        if not self.drained:
            self.drained = True
            self.far.drain()

    def longest_gap_s(self) -> float:
        times = [float(line[3]) for line in self.lines("lease")]
        return max((b - a for a, b in itertools.pairwise(times)), default=0.0)


class Site:
    """A ledger in etcd, its witness, its gates."""

    def __init__(self, etcd: Cluster, folder: Path, seed: int, timeout_s: float) -> None:
        print(f"seed {seed}")
        self.etcd, self.rng = etcd, random.Random(seed)
        self.config = etcd.config(timeout_s)
        self.deployment = Deployment.create(folder / "operator", etcd=self.config)
        start_s = time.monotonic()
        clock = self.deployment.clock  # the gates' clocks run, so the witness's must
        clock.boot_ms = lambda: clock.ms + int((time.monotonic() - start_s) * 1000)  # type: ignore[method-assign]
        self.lower(BUDGET_BYTES)
        key = self.deployment.folder / "ledger" / "log.key"
        self.gates = [Gate(folder, key, f"gate-{n}", self.rng) for n in range(GATES)]

    def lower(self, budget_bytes: int) -> None:
        """Set the budget, as operators do beside running gates."""
        ledger = self.deployment.open(gate="operator", store=EtcdStore(self.config))
        self.deployment.set_budget(ledger, Limits(budget_bytes))
        ledger.close()

    def committed_bytes(self) -> int:
        ledger = self.deployment.open(gate="operator", store=EtcdStore(self.config))
        committed = sum(ledger.state().committed().values())
        ledger.close()
        return committed

    def progress(self, more: int, timeout_s: float = 120.0) -> None:
        """Every gate gets so many more leases."""
        before = [gate.leases for gate in self.gates]
        wait_until(
            lambda: all(g.leases >= b + more for g, b in zip(self.gates, before, strict=True)),
            f"every gate got {more} leases; alive: {[g.alive() for g in self.gates]}",
            timeout_s,
        )

    def check(self) -> dict[str, float]:
        """After the gates ended: no byte over, no acknowledged lease lost."""
        for gate in self.gates:
            gate.end()
        store = EtcdStore(self.config)
        verified = verify_log(store)
        log = b"".join(store.leaves(0, verified.size)).decode()
        store.close()
        sums = verified.balances
        arrived = sum(gate.far.received_bytes for gate in self.gates)
        counted = sums.spent_bytes + sums.outstanding_bytes
        acknowledged = [line[1] for gate in self.gates for line in gate.lines("lease")]
        lost = [i for i in acknowledged if f'"id":"{i}"' not in log]
        assert len(set(acknowledged)) == len(acknowledged), "a lease was handed out twice"
        assert not lost, "acknowledged leases were lost"
        assert 0 < arrived <= counted <= sums.granted_bytes
        return {
            "leases": len(acknowledged),
            "lost_leases": len(lost),
            "overspend_bytes": max(0, arrived - counted, counted - sums.granted_bytes),
            "arrived_bytes": arrived,
            "counted_bytes": counted,
            "granted_bytes": sums.granted_bytes,
            "outstanding_bytes": sums.outstanding_bytes,
            "longest_gap_s": max(gate.longest_gap_s() for gate in self.gates),
        }


@contextmanager
def site(
    etcd: Cluster, folder: Path, seed: int | None = None, timeout_s: float = 0.5
) -> Iterator[Site]:
    """Four running gates."""
    made = Site(etcd, folder, seed or random.SystemRandom().getrandbits(32), timeout_s)
    with ExitStack() as stack:
        stack.callback(made.deployment.close)
        witness = stack.enter_context(served(made.deployment))
        for gate in made.gates:
            stack.callback(gate.end)
            gate.start(made.config, witness)
        made.witness = witness  # type: ignore[attr-defined]
        made.progress(1)
        yield made


def _leader_killed(three: Cluster, folder: Path, kills: int) -> dict[str, float]:
    """The leader killed, its gates going on with two members, the member started again."""
    with site(three, folder) as made:
        for _ in range(kills):
            leader = three.leader()
            leader.kill()
            made.progress(2)
            three.restart(leader)
            wait_until(leader.answers, "the member is back")
        # to the last byte: the rest of the budget is what four gates use up within seconds
        made.lower(made.committed_bytes() + 300_000)
        for gate in made.gates:
            wait_until(lambda g=gate: any(d[1] == "depleted" for d in g.lines("denied")), "the end")
        for gate in made.gates:
            gate.stop()
        result = made.check()
        assert result["outstanding_bytes"] <= kills * GATES * 20_000
    print(json.dumps({"kills": kills, "gates": GATES} | result))
    assert result["overspend_bytes"] == 0
    assert result["lost_leases"] == 0
    return result


@pytest.mark.slow
def test_the_leader_killed_under_four_gates(three: Cluster, tmp_path: Path) -> None:
    _leader_killed(three, tmp_path, kills=2)


@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_the_leader_killed_fifty_times(three: Cluster, tmp_path: Path) -> None:
    _leader_killed(three, tmp_path, kills=int(os.environ.get("NARROWS_KILLS", "50")))


@pytest.mark.slow
def test_majority_lost_paused_and_back(three: Cluster, tmp_path: Path) -> None:
    """One member stopped: all go on. Two away: all stop and say why, and nothing more arrives.
    Back: all go on. A gate killed in between has its leases counted when it starts again."""
    with site(three, tmp_path) as made:
        one, two, last = three.members
        one.signal(signal.SIGSTOP)  # accepts connections, answers nothing
        made.progress(2)
        two.kill()
        denials = [len(gate.lines("denied store")) for gate in made.gates]
        for gate, before in zip(made.gates, denials, strict=True):
            wait_until(lambda g=gate, b=before: len(g.lines("denied store")) > b, "a denial")
        leases = [gate.leases for gate in made.gates]
        arrived = [gate.far.received_bytes for gate in made.gates]
        for gate in made.gates:
            before = len(gate.lines("denied"))
            wait_until(lambda g=gate, b=before: len(g.lines("denied")) > b, "another denial")
            assert "etcd: " in " ".join(gate.lines("denied")[-1])
        assert leases == [gate.leases for gate in made.gates]
        assert arrived == [gate.far.received_bytes for gate in made.gates]
        assert not last.answers(), "a member alone answers no linearizable read"
        made.gates[0].kill()
        one.signal(signal.SIGCONT)
        three.restart(two)
        three.wait()
        made.gates[0].start(made.config, made.witness)  # type: ignore[attr-defined]
        made.progress(2)
        for gate in made.gates:
            gate.stop()
        result = made.check()
    assert result["overspend_bytes"] == 0
