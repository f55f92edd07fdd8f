"""The real gate process on a ledger in a real etcd that goes away and comes back."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import closing
from pathlib import Path

import pytest

from ledger.etcd_cluster import Cluster, cluster, needs_etcd, wait_until
from narrows.bench.gate_peers import (
    Child,
    Counter,
    Deployment,
    deployment,
    enclave_process,
    start,
)
from narrows.deploy.config import load_config
from narrows.errors import InputError, PeerError
from narrows.gate.config import GateConfig
from narrows.ledger.ledger import Ledger
from narrows.ledger.office.balances import current_balances
from narrows.ledger.office.copying import copy_log
from narrows.ledger.stores.etcd import EtcdStore
from narrows.ledger.stores.etcd_http import EtcdConfig
from narrows.ledger.stores.place import LedgerPlace
from narrows.wire.gatestate import fetch_state

BUDGET_BYTES = 1 << 40


def _start(site: Deployment, etcd: EtcdConfig, enclave_port: int, state: Path) -> Child:
    """A gate whose only ledger is in etcd; STATE/narrows.toml says so."""
    (state / "narrows.toml").write_text(
        f'[gate]\nstate_port = 0\nname = "gate-1"\nstore = "etcd"\n'
        f'witness = "127.0.0.1:{site.witness_port}"\nwitness_key = "{site.witness_key.hex()}"\n'
        f'[gate.etcd]\nprefix = "{etcd.prefix}"\ntimeout_s = 1.0\n'
        f"endpoints = {json.dumps(etcd.endpoints)}\n"
        f"[[gate.ports]]\nlisten_port = 0\nenclave_port = {enclave_port}\n"
    )
    words = ["-m", "narrows.cli.main", "gate", "--state", str(state)]
    return start(words, state / "gate.log")


def _move(site: Deployment, made: Cluster) -> EtcdConfig:
    """The demonstration's ledger into etcd; the file goes."""
    etcd = made.config()
    with closing(LedgerPlace(site.state).read()) as file, closing(EtcdStore(etcd)) as store:
        store.create()
        copy_log(file, store)
    for file_name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (site.state / "ledger" / file_name).unlink(missing_ok=True)
    return etcd


def _state(gate: Child) -> str:
    return asyncio.run(fetch_state("127.0.0.1", gate.facts["state_port"])).ports["answers"].state


def _detail(site: Deployment) -> str:
    stats = json.loads((site.state / "gate" / "stats.json").read_text())
    return str(stats["ports"]["answers"]["last_detail"])


@needs_etcd
def test_a_gate_stops_within_its_leases_without_etcd_and_goes_on_with_it() -> None:
    with cluster(1) as made, deployment(BUDGET_BYTES) as site, enclave_process("flood") as inside:
        etcd = _move(site, made)
        gate = _start(site, etcd, inside, site.state)
        counter = Counter(gate.port)
        wait_until(lambda: counter.arrived_bytes > 100_000, "bytes arrive")
        (member,) = made.members
        member.kill()
        arrived = counter.join(60)
        assert _state(gate) == "store"
        assert Counter(gate.port).join() == 0
        wait_until(lambda: "etcd: " in _detail(site), "the stats file says why")
        made.restart(member)
        made.wait()
        more = 0
        deadline = time.monotonic() + 60
        while not more:  # a refused port asks again after a second
            assert time.monotonic() < deadline
            again = Counter(gate.port)
            time.sleep(0.3)
            again.close()
            more = again.arrived_bytes
        gate.kill()  # what it holds counts as spent, and only its own machine may say so
        (site.state / "other").mkdir()
        (site.state / "other" / "ledger").mkdir()
        key = site.state / "ledger" / "log.key"
        (site.state / "other" / "ledger" / "log.key").write_bytes(key.read_bytes())
        (site.state / "other" / "ledger" / "log.key").chmod(0o600)
        with pytest.raises(PeerError):
            _start(site, etcd, inside, site.state / "other")
        assert "another machine is the gate" in (site.state / "other" / "gate.log").read_text()
        ledger = Ledger.open(LedgerPlace(site.state, etcd), witness=site.witness, gate="gate-1")
        ledger.recover_dead_leases()
        sums = current_balances(ledger)
        ledger.close()
        assert sums.outstanding_bytes == 0
        assert 100_000 < arrived + more <= sums.spent_bytes


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('store = "etcd"', "belong together"),
        ('[gate.etcd]\nprefix = "a"', "belong together"),
        ('store = "postgres"', "store is"),
        ('name = "operator"', "name is"),
        ('name = "Gate"', "name is"),
        ('store = "etcd"\n[gate.etcd]\nendpoints = ["http://10.0.0.1:2379"]', "beyond loopback"),
    ],
)
def test_wrong_stores_are_named(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "narrows.toml").write_text(f"[gate]\n{text}\n")
    with pytest.raises(InputError) as caught:
        load_config(tmp_path / "narrows.toml").gate.check()
    assert any(problem in line for line in caught.value.problems)


def test_files_of_etcd_lie_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "narrows.toml").write_text(
        '[gate]\nstore = "etcd"\n[gate.etcd]\nendpoints = ["https://10.0.0.1:2379"]\n'
        'ca_file = "ca.crt"\ncert_file = "g.crt"\nkey_file = "g.key"\n'
    )
    gate: GateConfig = load_config(tmp_path / "narrows.toml").gate.check()
    assert gate.etcd is not None
    assert gate.etcd.ca_file == tmp_path.resolve() / "ca.crt"
