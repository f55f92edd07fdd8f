"""kill -9 on gates, witnesses, auditors and etcd's leader while credits are booked.

The net budget is so small that gates soon live on what comes back. What arrived is counted at
the far end of a pipe; what was credited, and of which lease, is read from the log's own leaves.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger.etcd_cluster import Cluster, cluster, needs_etcd, wait_until
from ledger.test_etcd_gates import GATES, Gate, Site, site
from ledger.test_kill import CHILD as GATE
from ledger.test_kill import ENVIRONMENT, FarEnd, process, witness_process
from narrows.ledger.auditors import PPM, Enrolment, NetLimits, Terms
from narrows.ledger.changes import sign_change
from narrows.ledger.keys import load_private, public_of
from narrows.ledger.ledger import Ledger
from narrows.ledger.limits import Limits
from narrows.ledger.office.admin import apply_change
from narrows.ledger.office.balances import read_state
from narrows.ledger.office.demo import audit_demo, create_demo, demo_witness_key
from narrows.ledger.office.propose import auditor_document, budget_document
from narrows.ledger.office.setup import open_witness
from narrows.ledger.office.verify import verify_log, verify_path
from narrows.ledger.stores.etcd import EtcdStore
from narrows.ledger.stores.place import OPERATOR, LedgerPlace
from narrows.ledger.stores.store import Store


@pytest.fixture
def three() -> Iterator[Cluster]:
    with cluster(3) as made:
        yield made


AUDITOR = Path(__file__).with_name("credit_child.py")
KEY = bytes(range(32))
PUBLIC = public_of(Ed25519PrivateKey.from_private_bytes(KEY)).hex()
PINS = "22" * 32
MOST_PPM, GRAIN_BYTES = 990_000, 16
DELTA_PPT = 10**9
MOST_LEASE = "3000"


def credited_of(store: Store) -> int:
    """All that was credited, from the leaves alone: each lease once, settled, and never more than
    may be credited of what it used."""
    used: dict[str, int] = {}
    credited: dict[str, int] = {}
    for leaf in store.leaves(0, verify_log(store).size):
        document = json.loads(leaf)
        if document["t"] == "settle":
            assert document["id"] not in used
            used[document["id"]] = document["used"]
        if document["t"] == "credit":
            for lease, size_bytes in document["credit"]["leases"]:
                assert lease not in credited, "a lease was credited twice"
                assert size_bytes <= used[lease] * MOST_PPM // PPM
                credited[lease] = size_bytes
    return sum(credited.values())


def net_bytes(kills: int) -> int:
    """What dies with a gate is never credited: so much, and little more."""
    return 10_000 + kills * int(MOST_LEASE)


def small_net(state: Path, size_bytes: int) -> None:
    """The demonstration's net budget, cut down."""
    place = LedgerPlace(state)
    with closing(Ledger.open(place, witness=open_witness(state), gate=OPERATOR)) as ledger:
        now = ledger.state()
        accounts = {name: one.meter.limits for name, one in now.accounts.items()}
        net = NetLimits(Limits(size_bytes), now.nets["demo"].delta_ppt)
        raw = now.lineages["demo"].limits
        document = budget_document(now, "demo", raw, accounts, ledger.now_ms(), net=net)
        operator = load_private(place.folder / "operators" / "demo.key")
        apply_change(ledger, document, [sign_change(document, operator)])


@contextmanager
def auditor(state: Path, port: int, rng: random.Random) -> Iterator[subprocess.Popen[bytes]]:
    words = [
        str(state),
        str(port),
        demo_witness_key(state).hex(),
        OPERATOR,
        str(rng.randrange(10**9)),
    ]
    with process(
        [str(AUDITOR), *words, "", KEY.hex()], stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as child:
        yield child


class Roles:
    """A witness and an auditor beside gates that come and go; each is killed at times."""

    def __init__(self, state: Path, rng: random.Random) -> None:
        self.state, self.rng = state, rng
        self.died = Counter[str]()
        self.arrived = 0

    def until_the_witness_dies(self, kills: int) -> None:
        with ExitStack() as stack:
            self.witness, port = stack.enter_context(witness_process(self.state))
            self.auditor = stack.enter_context(auditor(self.state, port, self.rng))
            while self.witness.poll() is None and self.died.total() < kills:
                self.arrived += one_gate(self.state, port, self.rng, self.kill)
                self.auditor.send_signal(signal.SIGSTOP)  # what is read is of one moment
                check(self.state, self.arrived, kills)
                self.auditor.send_signal(signal.SIGCONT)
                if self.auditor.poll() is not None and self.witness.poll() is None:
                    self.auditor = stack.enter_context(auditor(self.state, port, self.rng))

    def kill(self, gate: subprocess.Popen[bytes]) -> None:
        for name, role, chance in (
            ("witness", self.witness, 0.15),
            ("auditor", self.auditor, 0.5),
            ("gate", gate, 1.0),
        ):
            assert role.poll() is None, (name, said(role))
            if self.rng.random() < chance:
                role.kill()
                role.wait()
                self.died[name] += 1
                time.sleep(self.rng.random() * 0.05)


def _kills(state: Path, kills: int, seed: int) -> None:
    print(f"seed {seed}")
    create_demo(state, 1 << 40)
    audit_demo(state, "gate", PUBLIC, PINS, GRAIN_BYTES)
    small_net(state, net_bytes(kills))
    roles = Roles(state, random.Random(seed))
    while roles.died.total() < kills:
        roles.until_the_witness_dies(kills)
    credited = check(state, roles.arrived, kills)
    print(json.dumps({"died": roles.died, "arrived": roles.arrived, "credited": credited}))
    assert credited > 0


def one_gate(
    state: Path, port: int, rng: random.Random, kill: Callable[[subprocess.Popen[bytes]], None]
) -> int:
    """A gate serves for a while, then ``kill`` is called with it. Bytes that arrived of it."""
    far = FarEnd()
    words = [str(GATE), str(state), str(port), str(rng.randrange(10**7)), MOST_LEASE, "wait"]
    try:
        with process(words, stdout=far.write_fd, stderr=subprocess.PIPE) as gate:
            assert gate.stderr is not None
            assert gate.stderr.readline() == b"up\n", gate.stderr.read()
            time.sleep(rng.random() ** 2 * 0.6)
            kill(gate)
    finally:
        far.drain()
    return far.received_bytes


def said(role: subprocess.Popen[bytes]) -> str:
    return role.stderr.read().decode() if role.stderr is not None else ""


def check(state: Path, arrived: int, kills: int) -> int:
    """Nothing over, raw or net, whatever was killed; all that was credited."""
    sums = verify_path(state).balances
    assert arrived <= sums.spent_bytes + sums.outstanding_bytes <= sums.granted_bytes
    with closing(LedgerPlace(state).read()) as store:
        credited = credited_of(store)
    now = read_state(LedgerPlace(state))
    raw, net = now.lineages["demo"], now.nets["demo"].meter
    assert raw.spent_bytes - net.spent_bytes == credited
    assert arrived <= net_bytes(kills) + credited
    return credited


@pytest.mark.slow
def test_killed_in_mid_credit(tmp_path: Path) -> None:
    _kills(tmp_path / "state", kills=16, seed=20261128)


@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_killed_in_mid_credit_a_thousand_times(tmp_path: Path) -> None:
    _kills(tmp_path / "state", kills=1000, seed=int(os.environ.get("NARROWS_SEED", "1")))


class Poster(Gate):
    """An auditor that credits, where a gate would lease."""

    child = AUDITOR
    more = (KEY.hex(),)


def audit(made: Site) -> None:
    """Every gate's answers are audited, under a net budget."""
    names = tuple(gate.name for gate in made.gates)
    terms = Terms(PPM, 2048, DELTA_PPT, MOST_PPM, PINS, GRAIN_BYTES)
    body = Enrolment("base", names, PUBLIC, "e" * 32, terms)
    ledger = made.deployment.open(gate="operator", store=EtcdStore(made.config))
    keys = made.deployment.keys[: made.deployment.threshold]
    raw, accounts = ledger.state().lineages["base"].limits, {"answers": Limits(None)}
    net = NetLimits(Limits(1 << 32), GATES * DELTA_PPT)
    document = budget_document(ledger.state(), "base", raw, accounts, ledger.now_ms(), net=net)
    apply_change(ledger, document, sorted(sign_change(document, key) for key in keys))
    document = auditor_document(ledger.state(), body, ledger.now_ms())
    apply_change(ledger, document, sorted(sign_change(document, key) for key in keys))
    ledger.close()


def credited_now(made: Site) -> int:
    with closing(EtcdStore(made.config)) as store:
        return credited_of(store)


def _leader_killed_in_mid_credit(three: Cluster, folder: Path, kills: int) -> None:
    """Poster and leader are killed in turn, and a gate at times; each comes back."""
    with site(three, folder) as made:
        audit(made)
        poster = Poster(folder, made.deployment.folder / "ledger" / "log.key", "poster", made.rng)
        poster.start(made.config, made.witness)  # type: ignore[attr-defined]
        try:
            for number in range(kills):
                had = credited_now(made)
                leader = three.leader()
                leader.kill()
                made.progress(1)
                killed = made.rng.choice([poster, *made.gates]) if number % 2 else None
                if killed is not None:
                    killed.kill()
                three.restart(leader)
                wait_until(leader.answers, "the member is back")
                if killed is not None:
                    killed.start(made.config, made.witness)  # type: ignore[attr-defined]
                wait_until(
                    lambda had=had: credited_now(made) > had,  # type: ignore[misc]
                    f"credits go on: {poster.said.read_text()[-2000:]}",
                    120.0,
                )
                assert poster.alive(), poster.said.read_text()
        finally:
            poster.end()
        result = made.check()
        credited = credited_now(made)
    print(json.dumps({"kills": kills, "credited": credited} | result))
    assert result["overspend_bytes"] == 0


@needs_etcd
@pytest.mark.slow
def test_the_leader_killed_in_mid_credit(three: Cluster, tmp_path: Path) -> None:
    _leader_killed_in_mid_credit(three, tmp_path, kills=2)


@needs_etcd
@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_the_leader_killed_in_mid_credit_often(three: Cluster, tmp_path: Path) -> None:
    _leader_killed_in_mid_credit(three, tmp_path, kills=int(os.environ.get("NARROWS_KILLS", "50")))
