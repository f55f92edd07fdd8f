"""Where a ledger lies is found out once, and its log is read once, whatever is done with it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.ledger_helpers import Deployment
from ledger.test_shared_time import SharedFile
from narrows import config as sections
from narrows.cli.main import main
from narrows.errors import BudgetError
from narrows.ledger.changes import sign_change
from narrows.ledger.limits import Limits
from narrows.ledger.office.propose import budget_document, write_change_file
from narrows.ledger.office.verify import verify_path
from narrows.ledger.replica import Replica
from narrows.ledger.stores.place import LedgerPlace, machine_id

PORTS = '[[gate.ports]]\nname = "answers"\n'
ETCD = '[gate]\nstore = "etcd"\nname = "gate-1"\n[gate.etcd]\nendpoints = ["http://127.0.0.1:9"]\n'


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment.create(tmp_path / "state")
    yield made
    made.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a configuration was parsed, and a log replayed into an empty replica."""
    counts = Counter[str]()
    read, load = sections.read_toml, Replica.load

    def counted_read(path: Path) -> object:
        counts["configuration"] += 1
        return read(path)

    def counted_load(replica: Replica, *args: object, **kinds: object) -> None:
        counts["log"] += 1
        load(replica, *args, **kinds)  # type: ignore[arg-type]

    monkeypatch.setattr(sections, "read_toml", counted_read)
    monkeypatch.setattr(Replica, "load", counted_load)
    return counts


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


def raised(deployment: Deployment, file: Path) -> Path:
    """A change that two operators signed."""
    ledger = deployment.open(gate="operator")
    limits, accounts = Limits(1000), {"answers": Limits(None)}
    now_ms = int(time.time() * 1000)  # the commands' clock, not the deployment's
    document = budget_document(ledger.state(), "base", limits, accounts, now_ms)
    ledger.close()
    signatures = sorted(sign_change(document, key) for key in deployment.keys[:2])
    write_change_file(file, document, signatures)
    return file


def test_a_command_parses_the_configuration_and_replays_the_log_once(
    deployment: Deployment, tmp_path: Path, reads: Counter[str]
) -> None:
    file = raised(deployment, tmp_path / "raise.json")
    (deployment.folder / "narrows.toml").write_text(PORTS)
    for words in (
        ("budget", "apply", file),
        ("budget", "show"),
        ("status",),
        ("key", "operator", "list"),
        ("ledger", "recover", "--propose", tmp_path / "gap.json"),
    ):
        reads.clear()
        assert run(*words, "--state", deployment.folder) == 0
        assert reads == {"configuration": 1, "log": 1}, words


@pytest.mark.parametrize("words", [("status",), ("budget", "sign", "raise.json", "--key", "x")])
def test_a_ledger_elsewhere_is_found_by_one_look_at_the_configuration(
    deployment: Deployment,
    tmp_path: Path,
    reads: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    raised(deployment, tmp_path / "raise.json")
    monkeypatch.chdir(tmp_path)
    deployment.db.unlink()
    (deployment.folder / "narrows.toml").write_text(ETCD)
    reads.clear()
    assert run(*words, "--state", deployment.folder) == 5  # nobody answers there
    assert reads == {"configuration": 1}


def test_an_open_that_is_refused_writes_nothing(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its witness, a ledger of several machines has no time to date a leaf by."""
    before = verify_path(deployment.db).size
    monkeypatch.setattr(LedgerPlace, "open_as", lambda *_, **__: SharedFile(deployment.db))
    for given in (None, Deployment.create(deployment.folder / "other", seed=2).witness()):
        with pytest.raises(BudgetError, match="witness"):
            deployment.open(witness=given)
        assert verify_path(deployment.db).size == before
    deployment.open().close()  # and the gate's name is free


def test_a_machine_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "gate-1.id"
    name = machine_id(path)
    assert machine_id(path) == name == path.read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ["gate-1.id"]
    path.write_text(name[:-1])
    with pytest.raises(BudgetError, match="damaged"):
        machine_id(path)
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(BudgetError, match="symbolic link"):
        machine_id(path)
