"""The commands end to end: a deployment of two machines, as an operator would make it."""

from __future__ import annotations

import io
import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.here import outcome
from ledger.etcd_cluster import Cluster, cluster, needs_etcd
from narrows.bench.ledger_sweep import plot, sweep
from narrows.cli.ledger.limits import read_block
from narrows.errors import InputError
from narrows.ledger.office.propose import write_change_file
from narrows.ledger.office.setup import open_witness
from narrows.ledger.stores.etcd_http import EtcdConfig
from narrows.ledger.stores.sqlite import SqliteStore
from narrows.ledger.stores.store import StoreError

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process; returns what it printed. ``code``: its exit code."""
    monkeypatch.setenv("NARROWS_STATE", str(tmp_path / "gate"))

    def call(*words: object, code: int = 0) -> str:
        got, out, err = outcome(capsys, *words)
        assert got == code, err
        return out

    return call


@pytest.fixture(scope="module")
def etcd() -> Iterator[Cluster]:
    with cluster(1) as made:
        yield made


def in_etcd(folder: Path, config: EtcdConfig) -> None:
    """Have the commands over ``folder`` find their ledger in etcd."""
    folder.mkdir(exist_ok=True)
    (folder / "narrows.toml").write_text(
        f'[gate]\nname = "gate-1"\nstore = "etcd"\n[gate.etcd]\nprefix = "{config.prefix}"\n'
        f"endpoints = {json.dumps(config.endpoints)}\n"
    )


STORES = pytest.mark.parametrize(
    "gate", ["sqlite", pytest.param("etcd", marks=needs_etcd)], indirect=True
)


@pytest.fixture
def gate(tmp_path: Path, run: Run, request: pytest.FixtureRequest) -> Path:
    """Three operators, two of whom sign; the witness in the same folder. The ledger lies there
    too, or in etcd."""
    folder = tmp_path / "gate"
    if getattr(request, "param", "sqlite") == "etcd":
        in_etcd(folder, request.getfixturevalue("etcd").config())
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


@STORES
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
    assert "account telemetry: closed by this" in run(
        "budget", "sign", lower, "--key", tmp_path / "ops" / "carol.key", "--yes"
    )
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


def test_a_forecasts_budget_is_proposed_as_it_stands(run: Run, gate: Path, tmp_path: Path) -> None:
    block, file = tmp_path / "budget.toml", tmp_path / "raise.json"
    run("plan", "--preset", "llama-3.1-8b", "--draws", 500, "--budget", block)
    run("budget", "propose", "--from", block, "--out", file)
    _signed(run, tmp_path, file, "alice", "bob")
    run("budget", "apply", file)
    shown = json.loads(run("budget", "show", "--json"))["lineages"][0]
    told = tomllib.loads(block.read_text())["budget"]
    assert shown["lineage"] == told["lineage"] == "llama-3.1-8b"
    assert shown["granted_bytes"] == told["lifetime_bytes"]
    assert [w["cap_bytes"] for w in shown["windows"]] == list(told["windows_bytes"].values())
    assert [a["account"] for a in shown["accounts"]] == ["answers", "telemetry"]
    # the flags in its comment say the same
    flags = " ".join(
        line[1:].rstrip("\\") for line in block.read_text().splitlines() if "#" in line
    )
    as_flags = tmp_path / "flags.json"
    run(*flags.split()[1:-2], "--out", as_flags)
    run("budget", "propose", "--from", block, "--out", file)
    one, two = (json.loads(path.read_text())["change"] for path in (file, as_flags))
    assert one | {"not_after_ms": 0} == two | {"not_after_ms": 0}
    # accounts may be given limits, nothing else is said twice
    run("budget", "propose", "--from", block, "--account", "answers:1h=1kB", "--out", file)
    change = json.loads(file.read_text())["change"]
    assert change["accounts"]["answers"]["windows"] == [[3_600_000, 1000]]
    run("budget", "propose", "--from", block, "--lifetime", "1TB", "--out", file, code=2)
    run("budget", "propose", "--lineage", "base-1", "--lifetime", "1TB", "--out", file, code=2)
    # and with an audit, the net budget likewise
    parts = ("unexplained", "signalling", "timing")
    audit = [word for part in parts for word in ("--set", f"{part}=0.01 bits/token")]
    audit += ["--set", "audit=true", "--coding", "coupled"]
    run("plan", "--preset", "llama-3.1-8b", "--draws", 500, *audit, "--budget", block)
    net = tomllib.loads(block.read_text())["budget"]["net_lifetime_bytes"]
    words = [line[1:].rstrip("\\") for line in block.read_text().splitlines() if "#" in line]
    run(*" ".join(words).split()[1:-2], "--out", as_flags)
    run("budget", "propose", "--from", block, "--out", file)
    one, two = (json.loads(path.read_text())["change"] for path in (file, as_flags))
    assert one | {"not_after_ms": 0} == two | {"not_after_ms": 0}
    assert one["net"]["limits"]["lifetime_bytes"] == net
    run("budget", "propose", "--from", block, "--no-net", "--out", file)
    assert "net" not in json.loads(file.read_text())["change"]


def test_proposals_and_signatures_for_machines(
    run: Run, gate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, key = tmp_path / "raise.json", tmp_path / "ops" / "bob.key"
    words = ("--lineage", "base-1", "--lifetime", "2GB", "--account", "answers")
    proposed = json.loads(run("budget", "propose", *words, "--out", file, "--json"))
    signed = json.loads(run("budget", "sign", file, "--key", key, "--yes", "--json"))
    assert proposed["change"] == signed["change"] == json.loads(file.read_text())["change"]
    assert proposed["lines"] == signed["lines"]
    assert "raises or creates: needs 2 of 3 operators" in signed["lines"]
    assert len(signed["signers"]) == 1
    # without --yes nothing is signed that was not confirmed, and nobody answers here
    for answer in ("", "n\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        run("budget", "sign", file, "--key", tmp_path / "ops" / "alice.key", "--json", code=1)
    assert len(json.loads(file.read_text())["signatures"]) == 1


def test_every_mistake_in_a_budget_block_is_named(tmp_path: Path) -> None:
    file = tmp_path / "budget.toml"
    file.write_text(
        '[budget]\nlineage = "Base 1"\nlifetime_bytes = "2Gb"\n'
        'windows_bytes = { "1h" = -1, "x" = 5, "60m" = 3 }\naccounts = []\ncolour = "red"\n'
    )
    with pytest.raises(InputError) as caught:
        read_block(file)
    lines = [int(problem.split(":")[1]) for problem in caught.value.problems]
    assert sorted(lines) == [2, 3, 4, 4, 5, 6]
    for text in ("", "[gate]\n", "budget = 3\n", "[budget]\n[gate]\n"):
        file.write_text(text)
        with pytest.raises(InputError):
            read_block(file)
    file.write_text(
        '[budget]\nlineage = "a"\nlifetime_bytes = 5\naccounts = ["x"]\n'
        'windows_bytes = { "1h" = 3, "60m" = 4 }\n'
    )
    with pytest.raises(InputError):  # one window twice
        read_block(file)


def test_a_change_file_cannot_write_lines_of_its_own(run: Run, gate: Path, tmp_path: Path) -> None:
    file = tmp_path / "raise.json"
    words = ("--lineage", "base-1", "--lifetime", "2GB", "--account", "answers")
    run("budget", "propose", *words, "--out", file)
    honest = run("budget", "sign", file, "--key", tmp_path / "ops" / "bob.key", "--yes")
    document = json.loads(file.read_text())["change"]
    document["origin"] += "\n\x1b[2Kbudget of lineage base-1: 5 bytes ever"
    write_change_file(file, document, [])
    shown = run("budget", "sign", file, "--key", tmp_path / "ops" / "bob.key", "--yes")
    assert "\x1b" not in shown
    assert [line for line in shown.splitlines() if line.startswith("budget of")] == [
        line for line in honest.splitlines() if line.startswith("budget of")
    ]
    run("budget", "apply", file, code=5)


@STORES
def test_operators_rotate(run: Run, gate: Path, tmp_path: Path) -> None:
    dave = run("key", "operator", "new", "dave", "--out", tmp_path / "ops").strip()
    before = json.loads(run("key", "operator", "list", "--json"))
    file = tmp_path / "rotate.json"
    run("key", "operator", "rotate", before["keys"][0], dave, "--out", file)
    _signed(run, tmp_path, file, "alice", "bob")
    assert f"removes {before['keys'][0]}" in run(
        "budget", "sign", file, "--key", tmp_path / "ops" / "bob.key", "--yes"
    )
    run("budget", "apply", file, code=5)  # the new key has not signed
    _signed(run, tmp_path, file, "dave")
    run("budget", "apply", file)
    after = json.loads(run("key", "operator", "list", "--json"))
    assert set(before["keys"]) - set(after["keys"]) == {before["keys"][0]}
    assert dave in after["keys"]
    run("key", "operator", "revoke", dave, "--threshold", 3, "--out", file, code=2)
    run("key", "operator", "revoke", "00" * 32, "--out", file, code=2)
    run("key", "operator", "new", "dave", "--out", tmp_path / "ops", code=5)


def _raise_to(run: Run, tmp_path: Path, size: str) -> None:
    file = tmp_path / f"{size}.json"
    words = ("--lineage", "base-1", "--lifetime", size, "--account", "answers")
    run("budget", "propose", *words, "--out", file)
    _signed(run, tmp_path, file, "alice", "bob")
    run("budget", "apply", file)


def test_backup_restore_recover(run: Run, gate: Path, tmp_path: Path) -> None:
    def raise_to(size: str) -> None:
        _raise_to(run, tmp_path, size)

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


def test_a_restore_that_fails_leaves_the_ledger_in_its_place(
    run: Run, gate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = tmp_path / "backup.db"
    run("ledger", "backup", backup)
    (gate / "ledger" / "ledger.db.restoring").write_text("of a restore that was killed")

    def full(self: SqliteStore, target: Path) -> None:
        raise StoreError("cannot back up: database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "backup", full)
        run("ledger", "restore", backup, code=5)
    assert json.loads(run("log", "verify", "--json"))["ok"]
    assert not list((gate / "ledger").glob("ledger-*.db"))
    run("ledger", "restore", backup)
    assert json.loads(run("log", "verify", "--json"))["ok"]
    assert len(list((gate / "ledger").glob("ledger-*.db"))) == 1
    assert not list((gate / "ledger").glob("*restoring*"))
    assert (gate / "ledger" / "ledger.db").stat().st_mode & 0o777 == 0o600


@needs_etcd
def test_a_ledger_moves_to_etcd_and_is_restored_there(
    run: Run, gate: Path, tmp_path: Path, etcd: Cluster
) -> None:
    _raise_to(run, tmp_path, "1MB")
    run("ledger", "copy", gate / "ledger" / "ledger.db", code=2)
    run("ledger", "release", "gate-1", code=2)
    in_etcd(gate, etcd.config())
    run("log", "verify", code=5)  # nothing there yet
    assert "3 leaves" in run("ledger", "copy", gate / "ledger" / "ledger.db")
    run("ledger", "copy", gate / "ledger" / "ledger.db", code=5)  # never over another
    backup = tmp_path / "backup.db"
    assert "3 leaves" in run("ledger", "backup", backup)
    run("ledger", "restore", backup, code=2)
    _raise_to(run, tmp_path, "2MB")
    assert json.loads(run("status", "--json"))["granted_bytes"] == 2 * 10**6
    assert "no machine was gate-1" in run("ledger", "release", "gate-1")
    # the backup under a new prefix: behind, until k operators count the gap as spent
    in_etcd(gate, etcd.config())
    run("ledger", "copy", backup)
    late = tmp_path / "late.json"
    words = ("--lineage", "base-1", "--lifetime", "3MB", "--account", "answers")
    run("budget", "propose", *words, "--out", late)
    _signed(run, tmp_path, late, "alice", "bob")
    run("budget", "apply", late, code=5)
    gap = tmp_path / "gap.json"
    run("ledger", "recover", "--propose", gap)
    _signed(run, tmp_path, gap, "bob", "carol")
    run("ledger", "recover", gap)
    _raise_to(run, tmp_path, "4MB")
    assert json.loads(run("log", "verify", "--json"))["ok"]


@pytest.mark.parametrize(
    "words",
    [
        ("--lifetime", "2.5B", "--account", "a"),
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
