"""The ledger as a gate uses it: leases, witness, rollback, recovery, clocks."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ledger.ledger_helpers import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    Deployment,
    lease,
    make_keys,
    served,
)
from narrows.errors import BudgetError
from narrows.ledger import records, replica
from narrows.ledger.api import Denied, Lease, LeaseSource
from narrows.ledger.changes import parse_change, sign_change
from narrows.ledger.keys import load_private
from narrows.ledger.ledger import Ledger
from narrows.ledger.limits import Limits
from narrows.ledger.log import note
from narrows.ledger.office.admin import apply_change, find_gap, recover
from narrows.ledger.office.balances import current_balances, read_balances
from narrows.ledger.office.demo import create_demo, demo_budget
from narrows.ledger.office.describe import describe
from narrows.ledger.office.propose import operators_document, recovery_document
from narrows.ledger.office.setup import make_operators, open_witness
from narrows.ledger.office.verify import verify_log, verify_path
from narrows.ledger.replica import SNAPSHOT_EVERY_LEAVES
from narrows.ledger.stores.place import LedgerPlace
from narrows.ledger.stores.sqlite import SqliteStore
from narrows.ledger.witness.witness import WitnessError


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment.create(tmp_path / "state")
    yield made
    made.close()


class FlakyWitness:
    """A witness whose next calls fail: ``before`` doing the work, or ``after`` it."""

    def __init__(self, inner: object) -> None:
        self._inner = inner
        self.verifier = inner.verifier  # type: ignore[attr-defined]
        self.faults: list[str] = []

    def __getattr__(self, name: str) -> object:
        def call(*arguments: object) -> object:
            fault = self.faults.pop(0) if self.faults else ""
            if fault == "before":
                raise WitnessError("unreachable")
            answer = getattr(self._inner, name)(*arguments)
            if fault == "after":
                raise WitnessError("the answer was lost")
            return b"" if fault == "garbage" else answer

        return call


def reason(got: Lease | Denied) -> str:
    return got.reason if isinstance(got, Denied) else "granted"


def test_a_budget_is_spent_to_the_last_byte_and_no_further(deployment: Deployment) -> None:
    with deployment.ready(Limits(1000)) as ledger:
        source: LeaseSource = ledger
        assert reason(source.acquire("telemetry", 1)) == "unknown_account"
        got = lease(ledger, 600)
        ledger.settle(got, 400)
        ledger.settle(got, 0)  # idempotent: the first one counts
        assert lease(ledger, 700).size_bytes == 600
        denied = ledger.acquire("answers", 1)
        assert isinstance(denied, Denied)
        assert (denied.reason, denied.retry_after_s) == ("depleted", None)
        balances = current_balances(ledger)
        assert (balances.spent_bytes, balances.outstanding_bytes) == (400, 600)
        with pytest.raises(BudgetError):
            ledger.settle(got, 601)
    seen = read_balances(LedgerPlace(deployment.folder), deployment.clock)
    assert (seen.granted_bytes, seen.left_bytes) == (1000, 0)


def test_no_budget_no_bytes(deployment: Deployment) -> None:
    ledger = deployment.open()
    assert reason(ledger.acquire("answers", 1)) == "unknown_account"
    ledger.close()


def test_a_dead_gates_leases_count_as_spent(deployment: Deployment) -> None:
    with deployment.ready(Limits(1000)) as ledger:
        lease(ledger, 300)
    again = deployment.open()
    assert again.recover_dead_leases() == 1
    assert again.recover_dead_leases() == 0
    assert current_balances(again).spent_bytes == 300
    again.close()


def test_one_process_a_gate(deployment: Deployment) -> None:
    with deployment.ready(Limits(10)), pytest.raises(BudgetError, match="another process"):
        deployment.open()


def test_a_state_too_long_for_a_snapshot_still_loads_and_takes_changes(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_SNAPSHOT_BYTES", 500)
    monkeypatch.setattr(replica, "SNAPSHOT_EVERY_LEAVES", 8)
    with deployment.ready(Limits(1000)) as ledger:
        for _ in range(10):
            ledger.settle(lease(ledger, 10), 10)
    ledger = deployment.open()
    deployment.set_budget(ledger, Limits(500), signers=1)
    assert reason(ledger.acquire("answers", 10)) == "granted"
    ledger.close()
    with closing(deployment.store()) as store:
        assert store.snapshot() is None
    assert verify_path(deployment.folder).balances.spent_bytes == 100


def test_two_gates_and_an_operator_share_one_ledger(deployment: Deployment) -> None:
    """Interleaved writers on one file: every conflict is decided again on the newest state."""
    one, two = deployment.open(gate="one"), deployment.open(gate="two")
    deployment.set_budget(one, Limits(1000), signers=2)
    granted = 0
    for number in range(200):
        got = (one, two)[number % 2].acquire("answers", 7)
        if isinstance(got, Lease):
            granted += got.size_bytes
            if number % 3 == 0:
                (one, two)[number % 2].settle(got, 5)
                granted -= got.size_bytes - 5
        if number == 50:
            deployment.set_budget(two, Limits(500), signers=1)
    assert granted == 500
    assert one.recover_dead_leases() > 0
    one.close()
    two.close()
    assert verify_path(deployment.folder).balances.spent_bytes <= 500


def test_threads_share_one_ledger(deployment: Deployment) -> None:
    accounts = {f"a{n}": Limits(None) for n in range(4)}
    with deployment.ready(Limits(2000), accounts) as ledger:
        granted: list[int] = []

        def work(account: str) -> None:
            while isinstance(got := ledger.acquire(account, 50), Lease):
                granted.append(got.size_bytes)
                ledger.settle(got, got.size_bytes)

        threads = [threading.Thread(target=work, args=(name,)) for name in accounts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(granted) == 2000


# -- witness ---------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["before", "after", "garbage"])
def test_no_cosignature_no_lease_and_no_second_one_after(
    deployment: Deployment, fault: str
) -> None:
    witness = FlakyWitness(deployment.witness())
    ledger = deployment.open(witness)
    deployment.set_budget(ledger, Limits(1000))
    lease(ledger, 10)
    for _ in range(3):
        witness.faults = [fault]
        assert reason(ledger.acquire("answers", 100)) == "witness"
    assert lease(ledger, 100).size_bytes == 100
    assert current_balances(ledger).outstanding_bytes == 110, "the lease that waited was used"
    witness.faults = [fault]
    assert reason(ledger.acquire("answers", 500)) == "witness"
    assert lease(ledger, 50).size_bytes == 50, "smaller than the one that waits: a new one"
    assert current_balances(ledger).outstanding_bytes == 160
    witness.faults = [fault]
    assert reason(ledger.acquire("answers", 500)) == "witness"
    ledger.close()
    sums = read_balances(LedgerPlace(deployment.folder), deployment.clock)
    assert sums.outstanding_bytes == 160, "what was never handed out is returned at the end"


def test_the_ledger_names_its_witness(deployment: Deployment, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="needs its witness"):
        deployment.open(None)
    other = Deployment.create(tmp_path / "other", seed=2)
    with pytest.raises(BudgetError, match="another witness"):
        deployment.open(other.witness())
    other.close()


def test_over_http(deployment: Deployment) -> None:
    with served(deployment) as client:
        ledger = deployment.open(client)
        deployment.set_budget(ledger, Limits(1000))
        for _ in range(5):
            ledger.settle(lease(ledger, 10), 5)
        assert reason(ledger.acquire("answers", 10)) == "granted"
        ledger.close()
    ledger = deployment.open(client)
    assert reason(ledger.acquire("answers", 10)) == "witness"
    ledger.close()
    verified = verify_path(deployment.folder)
    assert verified.cosigned_size == verified.size


def test_rollback_at_every_point_of_a_run_is_refused(deployment: Deployment) -> None:
    """A copy of the file after each step, put back later: with what it missed, it is behind."""
    copies = deployment.folder / "copies"
    copies.mkdir()
    points: list[tuple[int, int]] = []  # (size, leaves cosigned by then)

    def keep(ledger: Ledger) -> None:
        store = deployment.store()
        store.backup(copies / f"{len(points)}.db")
        store.close()
        points.append((ledger.state().size, 0))

    with deployment.ready(Limits(10_000)) as ledger:
        for number in range(12):
            keep(ledger)
            got = lease(ledger, 100)
            keep(ledger)
            if number % 3:
                ledger.settle(got, 50)
    last = verify_path(deployment.folder)
    refused = 0
    for number, (size, _) in enumerate(points):
        for suffix in ("", "-wal", "-shm"):
            deployment.db.with_name(f"ledger.db{suffix}").unlink(missing_ok=True)
        shutil.copy(copies / f"{number}.db", deployment.db)
        ledger = deployment.open()
        if size < last.cosigned_size:
            refused += 1
            for _ in range(2):
                assert reason(ledger.acquire("answers", 1)) == "behind"
            with pytest.raises(BudgetError):
                ledger.recover_dead_leases()
            ledger.settle(Lease(bytes(16), "answers", 5), 0)
            with pytest.raises(BudgetError):
                deployment.set_budget(ledger, Limits(20_000))
            assert verify_path(deployment.folder).size == size, "nothing was written to it"
        ledger.close()
    assert refused == len(points) - 1


def test_rollback_under_a_running_gate(deployment: Deployment) -> None:
    with deployment.ready(Limits(1000)) as ledger:
        for _ in range(3):
            lease(ledger, 10)
        with sqlite3.connect(deployment.db) as rolled:
            rolled.execute("DELETE FROM leaf WHERE position >= 4")
            rolled.execute("UPDATE head SET size = 4")
        rolled.close()
        for _ in range(2):
            assert reason(ledger.acquire("answers", 10)) == "behind"


def test_a_ledger_that_was_rolled_back_and_went_on_is_refused(deployment: Deployment) -> None:
    """Without its witness nobody notices; with it, size alone does not fool it."""
    with deployment.ready(Limits(10_000)) as ledger:
        store = deployment.store()
        store.backup(deployment.folder / "old.db")
        store.close()
        for _ in range(3):
            lease(ledger, 10)
    for suffix in ("", "-wal", "-shm"):
        deployment.db.with_name(f"ledger.db{suffix}").unlink(missing_ok=True)
    shutil.copy(deployment.folder / "old.db", deployment.db)
    blind = deployment.open(store=deployment.store(read_only=False), witness=None)
    for _ in range(9):
        lease(blind, 10)
    blind.close()
    ledger = deployment.open()
    denied = ledger.acquire("answers", 1)
    assert isinstance(denied, Denied)
    assert denied.reason == "behind"
    assert "not those" in denied.detail
    ledger.close()


def test_a_deleted_ledger_is_not_replaced_by_a_new_budget(tmp_path: Path) -> None:
    create_demo(tmp_path, 1000)
    assert demo_budget(tmp_path) == 1000
    with pytest.raises(BudgetError):
        create_demo(tmp_path, 1000)
    shutil.rmtree(tmp_path / "ledger")
    assert demo_budget(tmp_path) is None
    with pytest.raises(BudgetError, match="exists"):
        create_demo(tmp_path, 1000)


def test_the_demonstration_budget(tmp_path: Path) -> None:
    create_demo(tmp_path, 1000)
    witness = open_witness(tmp_path)
    ledger = Ledger.open(LedgerPlace(tmp_path), witness=witness)
    assert ledger.recover_dead_leases() == 0
    assert lease(ledger, 10, "telemetry").size_bytes == 10
    assert lease(ledger, 2000).size_bytes == 990
    ledger.close()
    witness.close()


# -- recovery --------------------------------------------------------------------------


def _roll_back(deployment: Deployment, copy: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        deployment.db.with_name(f"ledger.db{suffix}").unlink(missing_ok=True)
    shutil.copy(copy, deployment.db)


def test_recovery_counts_the_gap_as_spent(deployment: Deployment, tmp_path: Path) -> None:
    with deployment.ready(Limits(1000, ((HOUR_MS, 900),))) as ledger:
        left_open = lease(ledger, 100)
        store = deployment.store()
        store.backup(tmp_path / "old.db")
        store.close()
        ledger.settle(left_open, 0)
        ledger.settle(lease(ledger, 250), 250)
        lease(ledger, 50)
    left = 300  # 250 settled, 50 outstanding
    _roll_back(deployment, tmp_path / "old.db")
    witness = FlakyWitness(deployment.witness())
    ledger = deployment.open(witness)
    assert reason(ledger.acquire("answers", 1)) == "behind"
    gap, now = find_gap(ledger), ledger.state()
    head = (gap.witnessed.size, gap.witnessed.root)
    document = recovery_document(now, gap.root, head, gap.gap_bytes, gap.witnessed.time_ms)
    signed = sorted(sign_change(document, key) for key in deployment.keys[:2])
    with pytest.raises(BudgetError):
        recover(ledger, document, signed[:1])
    cheap = recovery_document(now, gap.root, head, {"base": 0}, gap.witnessed.time_ms)
    witness.faults = ["", "before"]  # it dates the leaf, and is gone when asked to accept it
    with pytest.raises(WitnessError):
        recover(ledger, document, signed)
    assert reason(ledger.acquire("answers", 1)) == "behind"
    recover(ledger, document, signed)
    balances = current_balances(ledger)
    assert balances.outstanding_bytes == 0
    assert balances.spent_bytes >= left
    assert balances.spent_bytes == 300
    assert lease(ledger, 10_000).size_bytes == 600, "the hour's window counts it too"
    with pytest.raises(BudgetError):  # once
        recover(ledger, cheap, sorted(sign_change(cheap, key) for key in deployment.keys[:2]))
    ledger.close()
    assert verify_path(deployment.folder).balances.spent_bytes == 300


def test_the_witness_itself_refuses_a_recovery_that_forgets_the_gap(
    deployment: Deployment, tmp_path: Path
) -> None:
    with deployment.ready(Limits(1000)) as ledger:
        store = deployment.store()
        store.backup(tmp_path / "old.db")
        store.close()
        lease(ledger, 250)
    _roll_back(deployment, tmp_path / "old.db")
    ledger = deployment.open()
    gap, now = find_gap(ledger), ledger.state()
    head = (gap.witnessed.size, gap.witnessed.root)
    cheap = recovery_document(now, gap.root, head, {"base": 249}, gap.witnessed.time_ms)
    with pytest.raises(WitnessError, match="gap"):
        recover(ledger, cheap, sorted(sign_change(cheap, key) for key in deployment.keys[:2]))
    assert reason(ledger.acquire("answers", 1)) == "behind"
    ledger.close()


def test_a_recovery_that_expired_before_the_witness_saw_it_is_proposed_again(
    deployment: Deployment, tmp_path: Path
) -> None:
    with deployment.ready(Limits(1000)) as ledger:
        store = deployment.store()
        store.backup(tmp_path / "old.db")
        store.close()
        lease(ledger, 250)
    _roll_back(deployment, tmp_path / "old.db")
    witness = FlakyWitness(deployment.witness())
    ledger = deployment.open(witness)

    def try_it() -> None:
        gap, now = find_gap(ledger), ledger.state()
        head = (gap.witnessed.size, gap.witnessed.root)
        document = recovery_document(
            now, gap.root, head, gap.gap_bytes, gap.witnessed.time_ms, HOUR_MS
        )
        signed = sorted(sign_change(document, key) for key in deployment.keys[:2])
        proposed.append((document, signed))
        recover(ledger, document, signed)

    proposed: list[tuple[dict, list[list[str]]]] = []  # type: ignore[type-arg]
    witness.faults = ["", "", "before"]  # asked for the gap and the date, then gone
    with pytest.raises(WitnessError):
        try_it()
    deployment.clock.advance(2 * HOUR_MS)
    with pytest.raises(WitnessError, match="expired"):
        recover(ledger, *proposed[0])
    assert reason(ledger.acquire("answers", 1)) == "behind"
    try_it()
    assert lease(ledger, 1000).size_bytes == 750
    ledger.close()
    assert verify_path(deployment.folder).balances.spent_bytes == 250


def test_operators_change_in_ledger_and_witness(deployment: Deployment, tmp_path: Path) -> None:
    new = make_keys(44, 1)[0]
    ledger = deployment.open()
    keys = [k.public_key().public_bytes_raw().hex() for k in [*deployment.keys[1:], new]]
    document = operators_document(ledger.state(), make_operators(keys, 2), ledger.now_ms())
    signed = sorted(sign_change(document, key) for key in [*deployment.keys[:2], new])
    apply_change(ledger, document, signed)
    gone, deployment.keys = deployment.keys[0], [*deployment.keys[1:], new]
    deployment.set_budget(ledger, Limits(1000))
    store = deployment.store()
    store.backup(tmp_path / "old.db")
    store.close()
    lease(ledger, 5)
    ledger.close()
    # the revoked key no longer signs recoveries at the witness either
    _roll_back(deployment, tmp_path / "old.db")
    ledger = deployment.open()
    gap, now = find_gap(ledger), ledger.state()
    head = (gap.witnessed.size, gap.witnessed.root)
    document = recovery_document(now, gap.root, head, gap.gap_bytes, gap.witnessed.time_ms)
    with pytest.raises(BudgetError):
        recover(ledger, document, sorted(sign_change(document, k) for k in (gone, new)))
    recover(ledger, document, sorted(sign_change(document, k) for k in deployment.keys[:2]))
    assert lease(ledger, 5).size_bytes == 5
    ledger.close()


def test_a_lineage_made_after_the_backup_is_no_dead_end(
    deployment: Deployment, tmp_path: Path
) -> None:
    with deployment.ready(Limits(1000)) as ledger:
        store = deployment.store()
        store.backup(tmp_path / "old.db")
        store.close()
        deployment.set_budget(ledger, Limits(1000), {"two": Limits(None)}, lineage="second")
        deployment.set_budget(ledger, Limits(1000), {"three": Limits(None)}, lineage="third")
        ledger.settle(lease(ledger, 400, "two"), 300)
        lease(ledger, 100, "two")
    _roll_back(deployment, tmp_path / "old.db")
    ledger = deployment.open()
    gap, now = find_gap(ledger), ledger.state()
    assert gap.gap_bytes == {"base": 0, "second": 400, "third": 0}
    head = (gap.witnessed.size, gap.witnessed.root)

    def signed(root: bytes, gaps: dict[str, int]) -> tuple[dict, list[list[str]]]:  # type: ignore[type-arg]
        document = recovery_document(now, root, head, gaps, gap.witnessed.time_ms)
        return document, sorted(sign_change(document, key) for key in deployment.keys[:2])

    document, signatures = signed(gap.root, gap.gap_bytes)
    assert "made in the gap" in describe(parse_change(document), now)[-2]
    with pytest.raises(BudgetError, match="another position"):
        recover(ledger, *signed(b"\x11" * 32, gap.gap_bytes))
    recover(ledger, document, signatures)
    assert reason(ledger.acquire("two", 1)) == "unknown_account"
    assert lease(ledger, 1000).size_bytes == 1000
    deployment.set_budget(ledger, Limits(1000), {"two": Limits(None)}, lineage="second")
    assert lease(ledger, 1000, "two").size_bytes == 600
    ledger.close()
    verified = verify_path(deployment.folder)
    assert verified.balances.spent_bytes == 400
    assert verified.cosigned_size == verified.size
    ledger = deployment.open()
    assert ledger.recover_dead_leases() == 2
    ledger.close()


def test_offline_verification_refuses_a_cosigned_head_of_other_sums(
    deployment: Deployment,
) -> None:
    with deployment.ready(Limits(1000)) as ledger:
        lease(ledger, 100)
    store = deployment.store()
    cosigned = store.cosigned()
    store.close()
    assert cosigned is not None
    checkpoint = note.parse_checkpoint(note.open_note(cosigned)[0])
    lower = dataclasses.replace(checkpoint, committed={"base": 1})
    key = load_private(deployment.folder / "ledger" / "log.key")
    signed = note.sign_note(lower.text(), lower.origin, key)
    witness = load_private(deployment.folder / "witness" / "witness.key")
    line = note.cosignature_line(lower.text(), "narrows.witness", witness, 1)
    with sqlite3.connect(deployment.db) as database:
        database.execute("UPDATE cosigned SET note = ?", (signed + line,))
    database.close()
    with pytest.raises(BudgetError, match="another log"):
        verify_path(deployment.folder)


def test_a_log_that_grows_under_its_verification_is_right(deployment: Deployment) -> None:
    """A gate appends, and has it cosigned, between any two things that are read."""
    with deployment.ready(Limits(10_000)) as ledger:

        class Growing(SqliteStore):
            def __getattribute__(self, name: str) -> Any:
                if name in ("head", "cosigned", "leaves"):
                    lease(ledger, 100)
                return super().__getattribute__(name)

        store = Growing(deployment.db, read_only=True)
        verified = verify_log(store)
        assert 0 < verified.cosigned_size < verified.size
        store.close()


@pytest.mark.parametrize("faults", [["before"], ["", "before"], ["", "after"], ["", "", "before"]])
def test_a_change_of_operators_that_the_witness_missed_is_finished_later(
    deployment: Deployment, faults: list[str]
) -> None:
    """The calls: its time is asked, it is told of the operators, it cosigns."""
    inner = deployment.witness()
    witness = FlakyWitness(inner)
    ledger = deployment.open(witness)
    deployment.set_budget(ledger, Limits(1000))
    keys = [k.public_key().public_bytes_raw().hex() for k in deployment.keys[:2]]
    document = operators_document(ledger.state(), make_operators(keys, 2), ledger.now_ms())
    signed = sorted(sign_change(document, key) for key in deployment.keys[:2])
    witness.faults = faults
    with pytest.raises(WitnessError):
        apply_change(ledger, document, signed)
    position = apply_change(ledger, document, signed)
    assert apply_change(ledger, document, signed) == position
    assert ledger.state().operators == inner._log(ledger.state().origin).operators
    assert ledger.state().operators.keys == tuple(sorted(keys))
    ledger.close()


# -- clocks ----------------------------------------------------------------------------


def test_the_wall_clock_is_not_read_within_a_boot(deployment: Deployment) -> None:
    with deployment.ready(Limits(10**6, ((HOUR_MS, 100),))) as ledger:
        ledger.settle(lease(ledger, 100), 100)
        for jump in (-DAY_MS, 400 * DAY_MS, 0):
            deployment.clock.wall += jump
            assert reason(ledger.acquire("answers", 1)) == "window"
        denied = ledger.acquire("answers", 1)
        assert isinstance(denied, Denied)
        assert denied.retry_after_s is not None
        assert HOUR_MS / 1000 <= denied.retry_after_s <= HOUR_MS / 1000 * 1.001 + 1
        deployment.clock.advance(int(denied.retry_after_s * 1000))
        assert lease(ledger, 1000).size_bytes == 100
    # not after a restart in the same boot either, although the witness's wall clock jumped
    deployment.clock.wall += 400 * DAY_MS
    ledger = deployment.open()
    ledger.recover_dead_leases()
    assert reason(ledger.acquire("answers", 1)) == "window"
    ledger.close()


def test_a_frozen_clock_forgets_nothing(deployment: Deployment) -> None:
    with deployment.ready(Limits(10**6, ((MINUTE_MS, 100),))) as ledger:
        spent = 0
        for _ in range(20):
            got = ledger.acquire("answers", 30)
            if isinstance(got, Lease):
                ledger.settle(got, got.size_bytes)
                spent += got.size_bytes
        assert spent == 100


def test_a_boot_clock_that_goes_back_stops_everything(deployment: Deployment) -> None:
    with deployment.ready(Limits(10**6)) as ledger:
        lease(ledger, 1)
        deployment.clock.ms -= 1
        assert reason(ledger.acquire("answers", 1)) == "clock"
        deployment.clock.ms += 1
        assert reason(ledger.acquire("answers", 1)) == "granted"


@pytest.mark.parametrize(
    ("off_ms", "free"), [(10 * MINUTE_MS, False), (2 * HOUR_MS, True), (-DAY_MS, False)]
)
def test_across_boots_time_is_the_witnesss(deployment: Deployment, off_ms: int, free: bool) -> None:
    with deployment.ready(Limits(10**6, ((HOUR_MS, 100),))) as ledger:
        ledger.settle(lease(ledger, 100), 100)
    deployment.clock.reboot(off_ms)
    ledger = deployment.open()
    assert reason(ledger.acquire("answers", 1)) == ("granted" if free else "window")
    ledger.close()
    assert verify_path(deployment.folder).balances.spent_bytes == 100


# -- growth ----------------------------------------------------------------------------


def test_long_logs_start_from_a_snapshot_and_verify_from_the_first_leaf(
    deployment: Deployment,
) -> None:
    limits = Limits(10**9, ((MINUTE_MS, 10**8), (DAY_MS, 10**9)))
    with deployment.ready(limits) as ledger:
        while ledger.state().size < 2 * SNAPSHOT_EVERY_LEAVES + 50:
            deployment.clock.advance(777)
            ledger.settle(lease(ledger, 1000), 999)
        expected = ledger.state().snapshot()
    store = deployment.store()
    snapshot = store.snapshot()
    assert snapshot is not None
    assert snapshot.size > 2 * SNAPSHOT_EVERY_LEAVES - 5
    store.close()
    ledger = deployment.open()
    assert ledger.state().snapshot() == expected
    lease(ledger, 5)
    ledger.close()
    verified = verify_path(deployment.folder)
    assert verified.balances.spent_bytes == ledger.state().lineages["base"].spent_bytes


def test_a_witness_far_behind_is_brought_up_to_date(deployment: Deployment) -> None:
    """Its head is older than the snapshot: the proof is made from the first leaf on."""
    with deployment.ready(Limits(10**6)) as ledger:
        lease(ledger, 1)
    blind = deployment.open(store=deployment.store(read_only=False), witness=None)
    while blind.state().size < SNAPSHOT_EVERY_LEAVES + 30:
        blind.settle(lease(blind, 1), 1)
    blind.close()
    ledger = deployment.open()
    ledger.recover_dead_leases()
    assert reason(ledger.acquire("answers", 1)) == "granted"
    ledger.close()
