"""The commands end to end: a deployment of two machines, as an operator would make it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from narrows.bench.ledger_sweep import plot, sweep
from narrows.cli.main import main
from narrows.ledger.setup import open_witness

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process; returns what it printed. ``code``: its exit code."""
    monkeypatch.setenv("NARROWS_STATE", str(tmp_path / "gate"))

    def call(*words: object, code: int = 0) -> str:
        capsys.readouterr()
        try:
            main([str(word) for word in words])
            got: object = 0
        except SystemExit as exit_:
            got = exit_.code or 0
        out = capsys.readouterr()
        assert got == code, out.err
        return out.out

    return call


@pytest.fixture
def gate(tmp_path: Path, run: Run) -> Path:
    """Three operators, two of whom sign; the witness in the same folder."""
    folder = tmp_path / "gate"
    keys = [
        run("key", "operator", "new", name, "--out", tmp_path / "ops").strip()
        for name in ("alice", "bob", "carol")
    ]
    witness = run("witness", "--state", folder, "--init").strip()
    named = [word for key in keys for word in ("--operator", key)]
    run(
        "ledger", "init", "--origin", "example.org/c1", *named,
        "--threshold", 2, "--witness-key", witness,
    )  # fmt: skip
    run("witness", "--state", folder, "--follow", folder / "ledger" / "log.json")
    return folder


def _signed(run: Run, tmp_path: Path, file: Path, *names: str) -> None:
    for name in names:
        run("budget", "sign", file, "--key", tmp_path / "ops" / f"{name}.key", "--yes")


def test_a_budget_from_proposal_to_history(run: Run, gate: Path, tmp_path: Path) -> None:
    assert json.loads(run("budget", "show", "--json"))["granted_bytes"] == 0
    assert "nothing leaves" in run("budget", "show")
    file = tmp_path / "raise.json"
    run(
        "budget", "propose", "--lineage", "base-1", "--lifetime", "2GB", "--window", "1h=50MB",
        "--account", "answers", "--account", "telemetry:lifetime=10MB,1h=1MB", "--out", file,
    )  # fmt: skip
    run("budget", "apply", file, code=5)
    _signed(run, tmp_path, file, "alice")
    run("budget", "apply", file, code=5)
    _signed(run, tmp_path, file, "bob")
    assert json.loads(run("budget", "apply", file, "--json"))["position"] == 2
    run("budget", "apply", file, code=5)  # no replay
    shown = json.loads(run("budget", "show", "--json"))["lineages"][0]
    assert shown["granted_bytes"] == 2 * 10**9
    assert shown["windows"][0]["cap_bytes"] == 50 * 10**6
    telemetry = shown["accounts"][1]
    assert (telemetry["cap_bytes"], telemetry["left_bytes"]) == (10**7, 10**6)
    assert "telemetry" in run("budget", "show")
    # lowering: one operator
    lower = tmp_path / "lower.json"
    run(
        "budget", "propose", "--lineage", "base-1", "--lifetime", "1GB", "--window", "1h=1MB",
        "--account", "answers", "--out", lower,
    )  # fmt: skip
    _signed(run, tmp_path, lower, "carol")
    run("budget", "apply", lower)
    changes = json.loads(run("budget", "history", "--json"))["changes"]
    assert [len(change["signers"]) for change in changes] == [2, 1]
    assert "base-1" in run("budget", "history")
    verified = json.loads(run("log", "verify", "--json"))
    assert verified["ok"]
    assert verified["size"] == verified["cosigned_size"] == 4
    assert "2 of 3" in run("log", "verify")
    keys = "--log-key", verified["log_vkey"], "--witness-key", verified["witness_vkey"]
    run("log", "verify", *keys)
    run("log", "verify", "--log-key", verified["witness_vkey"], code=5)
    run("log", "verify", "--witness-key", verified["log_vkey"], code=5)


def test_operators_rotate(run: Run, gate: Path, tmp_path: Path) -> None:
    dave = run("key", "operator", "new", "dave", "--out", tmp_path / "ops").strip()
    before = json.loads(run("key", "operator", "list", "--json"))
    file = tmp_path / "rotate.json"
    run("key", "operator", "rotate", before["keys"][0], dave, "--out", file)
    _signed(run, tmp_path, file, "alice", "bob")
    run("budget", "apply", file, code=5)  # the new key has not signed
    _signed(run, tmp_path, file, "dave")
    run("budget", "apply", file)
    after = json.loads(run("key", "operator", "list", "--json"))
    assert set(before["keys"]) - set(after["keys"]) == {before["keys"][0]}
    assert dave in after["keys"]
    run("key", "operator", "revoke", dave, "--threshold", 3, "--out", file, code=2)
    run("key", "operator", "revoke", "00" * 32, "--out", file, code=2)
    run("key", "operator", "new", "dave", "--out", tmp_path / "ops", code=5)


def test_backup_restore_recover(run: Run, gate: Path, tmp_path: Path) -> None:
    def raise_to(size: str) -> None:
        file = tmp_path / f"{size}.json"
        words = ("--lineage", "base-1", "--lifetime", size, "--account", "answers")
        run("budget", "propose", *words, "--out", file)
        _signed(run, tmp_path, file, "alice", "bob")
        run("budget", "apply", file)

    raise_to("1MB")
    backup = tmp_path / "backup.db"
    run("ledger", "backup", backup)
    assert json.loads(run("log", "verify", "--file", backup, "--json"))["ok"]
    raise_to("2MB")
    run("ledger", "restore", backup)
    assert len(list((gate / "ledger").glob("ledger-*.db"))) == 1
    file = tmp_path / "late.json"
    run(
        "budget", "propose", "--lineage", "base-1", "--lifetime", "3MB", "--account", "answers",
        "--out", file,
    )  # fmt: skip
    _signed(run, tmp_path, file, "alice", "bob")
    run("budget", "apply", file, code=5)  # behind its witness
    gap = tmp_path / "gap.json"
    assert "witness at 4" in run("ledger", "recover", "--propose", gap)
    _signed(run, tmp_path, gap, "bob")
    run("ledger", "recover", gap, code=5)
    _signed(run, tmp_path, gap, "carol")
    run("ledger", "recover", gap)
    raise_to("2MB")
    run("ledger", "recover", code=2)
    witness = open_witness(gate)
    assert witness.logs() == {"example.org/c1": 5}
    witness.close()


@pytest.mark.parametrize(
    "words",
    [
        ("--lifetime", "2.5GB", "--account", "a"),
        ("--lifetime", "GB", "--account", "a"),
        ("--lifetime", "2XB", "--account", "a"),
        ("--lifetime", "-1", "--account", "a"),
        ("--lifetime", "1GB", "--account", "a", "--window", "1h"),
        ("--lifetime", "1GB", "--account", "a", "--window", "1y=1GB"),
        ("--lifetime", "1GB", "--account", "a:lifetime"),
    ],
)
def test_wrong_amounts_are_named(run: Run, gate: Path, tmp_path: Path, words: tuple[str]) -> None:
    run("budget", "propose", "--lineage", "b", *words, "--out", tmp_path / "x.json", code=2)
    assert not (tmp_path / "x.json").exists()


def test_bench_of_the_simulation(run: Run) -> None:
    words = ("bench", "ledger", "--gates", 50, "--rounds", 30, "--json")
    got = json.loads(run(*words))
    assert got["gates"] == 50
    assert 0.99 < got["utilisation"] <= 1
    assert got["ledger_ops_per_s"] <= got["worst_minute_ops_per_s"] <= got["peak_ops_per_s"]
    assert got == json.loads(run(*words)), "the same seed, the same result"


def test_bench_of_lease_lengths(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "sweep.svg"
    words = ("bench", "ledger", "--gates", 20, "--sweep", "--plot", picture, "--json")
    got = json.loads(run(*words))
    operations = [each["ledger_ops_per_s"] for each in got["runs"]]
    assert operations == sorted(operations, reverse=True), "longer leases, fewer operations"
    assert picture.read_text().count("busiest minute") == 1
    small = sweep(5, leases_s=(125.0, 250.0))
    plot(small, tmp_path / "one.svg")
    plot(small, tmp_path / "two.svg")
    one, two = (tmp_path / "one.svg").read_bytes(), (tmp_path / "two.svg").read_bytes()
    assert one == two, "the same input, the same file"
    run("bench", "ledger", "--plot", picture, code=2)
    run("bench", "ledger", "--sweep", code=2)


def test_bench_on_disk(run: Run) -> None:
    got = json.loads(run("bench", "ledger", "--seconds", 0.2, "--json"))
    assert got["stranded_bytes"] <= 65_536
    assert got["leases"] > 0
