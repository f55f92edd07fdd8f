"""The net budget end to end: operators' commands, a gate's leases, an auditor's credits."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from cli.here import run as run_here
from ledger.test_net import AUDITOR, EPOCH, MB, OTHER, TAPE
from narrows.ledger.api import Denied, Lease
from narrows.ledger.auditors import GRAIN_BYTES
from narrows.ledger.keys import public_of
from narrows.ledger.ledger import Ledger
from narrows.ledger.net import Credit, sign_credit
from narrows.ledger.office.credits import write_credit_file
from narrows.ledger.office.demo import create_demo
from narrows.ledger.office.describe import history
from narrows.ledger.office.setup import open_witness
from narrows.ledger.office.verify import verify_log
from narrows.ledger.stores.place import LedgerPlace


def test_by_command_from_a_full_net_budget_to_a_lease_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two operators give a net budget and enrol an auditor; the budget fills; a credit opens
    it, once; a restart and an offline verification see the same."""
    state = tmp_path / "gate"

    def run(*words: object, code: int = 0) -> str:
        return run_here(capsys, "budget", *words, code=code)

    create_demo(state, 100 * MB)
    keys = list((state / "ledger" / "operators").glob("*.key"))
    assert len(keys) == 1
    change_file = tmp_path / "change.json"

    def agreed(*words: object) -> None:
        run(*words, "--state", state, "--out", change_file)
        run("sign", change_file, "--key", keys[0], "--state", state, "--yes")
        run("apply", change_file, "--state", state)

    base = ("propose", "--lineage", "demo", "--lifetime", "100MB", "--account", "answers")
    agreed(*base, "--net-lifetime", "2MB", "--net-window", "1h=2MB")
    agreed(
        *("enrol", "--lineage", "demo", "--gate", "gate"),
        *("--auditor", public_of(AUDITOR).hex(), "--pins", "11" * 32, "--epoch", EPOCH),
    )
    [line] = json.loads(run("show", "--state", state, "--json"))["lineages"]
    [audit] = line["net"]["audits"]
    assert (audit["gate"], audit["account"], audit["creditable_bytes"]) == ("gate", "", 0)
    with closing(Ledger.open(LedgerPlace(state), witness=open_witness(state))) as ledger:
        took = []
        while isinstance(made := ledger.acquire("answers", MB), Lease):
            took.append(made)
            ledger.settle(made, made.size_bytes)
        assert isinstance(made, Denied)
        assert "net budget" in made.detail
        assert sum(one.size_bytes for one in took) == 2_000_000
        origin = ledger.state().origin
    [line] = json.loads(run("show", "--state", state, "--json"))["lineages"]
    assert line["net"]["left_bytes"] == 0
    assert line["net"]["audits"][0]["creditable_bytes"] == 2_000_000
    assert "can be" in run("show", "--state", state)

    first = took[0].lease_id.hex()
    sizes = ((first, GRAIN_BYTES),)
    one = Credit(origin, "demo", "gate", "answers", EPOCH, 7, TAPE, 0, GRAIN_BYTES, sizes)
    file = tmp_path / "credit.json"
    write_credit_file(file, one, sign_credit(one, OTHER))
    run("credit", file, "--state", state, code=5)
    write_credit_file(file, one, sign_credit(one, AUDITOR))
    assert "credited 65,536 bytes" in run("credit", file, "--state", state)
    assert "already" in run("credit", file, "--state", state)
    again = json.loads(run("credit", file, "--state", state, "--json"))
    assert again == {"position": None, "credited_bytes": 0}
    with closing(Ledger.open(LedgerPlace(state), witness=open_witness(state))) as ledger:
        ledger.recover_dead_leases()
        again = ledger.acquire("answers", MB)
        assert isinstance(again, Lease)
        assert again.size_bytes <= GRAIN_BYTES
    # a proposal that says nothing of the net budget keeps it
    run(*base, "--state", state, "--out", change_file)
    assert "net" in json.loads(change_file.read_text())["change"]
    here = ("--state", state, "--out", change_file)
    # what the flags do not name stays: else a new lifetime would empty the auditors' pool
    agreed(*base, "--net-delta", "0.001")
    said = run(*base, "--net-lifetime", "3MB", *here)
    assert "1e-06 in all, of which 1e-09 is taken" not in said
    assert "now: bounds may fail with 0.001 in all, of which 1e-09 is taken" in said
    net = json.loads(change_file.read_text())["change"]["net"]
    assert net == {"delta_ppt": 10**9, "limits": {"lifetime_bytes": 3_000_000, "windows": []}}
    run(*base, "--no-net", "--net-delta", "0", *here, code=2)
    run(*base, "--net-window", "1h=1MB", *here, code=2)
    enrol = ("enrol", "--lineage", "demo", "--gate", "gate", "--auditor", public_of(AUDITOR).hex())
    for flag, word in (("--delta", "nan"), ("--delta", "inf"), ("--most", "nan"), ("--delta", "2")):
        run(*enrol, "--pins", "11" * 32, flag, word, *here, code=2)
    said = run(*enrol, "--pins", "22" * 32, "--epoch", EPOCH, *here)
    assert f"now at gate:  weights and fixed inputs: {'11' * 32}" in said
    run(*base, "--no-net", "--state", state, "--out", change_file)
    assert "net" not in json.loads(change_file.read_text())["change"]
    agreed("revoke", "--lineage", "demo", "--gate", "gate")
    with closing(LedgerPlace(state).read()) as store:
        verify_log(store)
        assert [change.kind for change in history(store)] == [
            "budget",
            "budget",
            "enrol",
            "budget",
            "revoke",
        ]
