"""Attack: whoever can write where a change lies swaps it while an honest operator signs.

A file may be opened as often as a command likes; each test swaps it before its n-th opening (an
audit hook sees every one, however it is done), so a second look shows another change than the
first. What is signed must be what was shown.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cli.here import outcome
from narrows.errors import BudgetError, InputError
from narrows.ledger.changes import parse_change, signers
from narrows.ledger.keys import load_private, public_of, save_private
from narrows.ledger.log.canonical import encode
from narrows.ledger.office.describe import describe
from narrows.ledger.office.propose import read_change_file, write_change_file
from narrows.ledger.office.verify import verify_path
from narrows.ledger.stores import sqlite as sqlite_store
from swaps import before_opening


def _change(kind: str, mark: int) -> dict[str, Any]:
    """Two marks make two changes of a kind that differ in what they grant."""
    head: dict[str, Any] = {
        "kind": kind, "origin": "example.org/c1", "after": [0, "00" * 32],
        "not_after_ms": 1 << 42,
    }  # fmt: skip
    if kind == "budget":
        limits = {"lifetime_bytes": mark, "windows": []}
        return head | {"lineage": "base-1", "limits": limits, "accounts": {}}
    if kind == "operators":
        private = Ed25519PrivateKey.from_private_bytes(mark.to_bytes(32))
        return head | {"keys": [public_of(private).hex()], "threshold": 1}
    place = [3, "11" * 32]
    return head | {"base": place, "witnessed": [9, "22" * 32], "gaps": {"base-1": mark}}


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NARROWS_STATE", str(tmp_path / "state"))
    save_private(tmp_path / "alice.key", Ed25519PrivateKey.generate())
    return tmp_path / "alice.key"


def _run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code, out, _ = outcome(capsys, *words)
    return code, out


@pytest.mark.parametrize("kind", ["budget", "operators", "recover"])
@pytest.mark.parametrize("opening", range(1, 11))
def test_what_is_signed_was_shown(
    kind: str,
    opening: int,
    key: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, other = tmp_path / "change.json", tmp_path / "other.json"
    write_change_file(file, _change(kind, 10_000), [])
    write_change_file(other, _change(kind, 9 * 10**12), [])
    with before_opening(file, opening, lambda: os.replace(other, file)):
        code, out = _run(capsys, "budget", "sign", file, "--key", key, "--yes")
    assert code == 0
    document, signatures = read_change_file(file)
    assert len(signers(document, signatures)) == 1
    shown = describe(parse_change(document), None)
    assert out.splitlines()[:-1] == shown


def test_a_swap_while_the_operator_reads_changes_nothing(
    key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, other = tmp_path / "change.json", tmp_path / "other.json"
    write_change_file(file, _change("budget", 10_000), [])
    write_change_file(other, _change("budget", 9 * 10**12), [])
    monkeypatch.setattr("typer.confirm", lambda *_, **__: os.replace(other, file))
    assert _run(capsys, "budget", "sign", file, "--key", key)[0] == 0
    assert read_change_file(file)[0] == _change("budget", 10_000)


_SWAPPER = """
import os, shutil, sys
one, two, place = sys.argv[1:]
print("up", flush=True)
while os.path.exists(one):
    for source in (one, two):
        try:
            shutil.copy(source, place + ".tmp")
            os.replace(place + ".tmp", place)
        except FileNotFoundError:
            break
"""


@pytest.mark.parametrize("tries", [10, pytest.param(1000, marks=pytest.mark.torture)])
def test_a_process_that_swaps_all_the_time(
    tries: int, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them: each time one of the two changes is shown, and that one is signed."""
    file, one, two = (tmp_path / f"{name}.json" for name in ("change", "one", "two"))
    for path, mark in ((file, 10_000), (one, 10_000), (two, 9 * 10**12)):
        write_change_file(path, _change("budget", mark), [])
    words = [sys.executable, "-c", _SWAPPER, str(one), str(two), str(file)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as swapper:
        try:
            assert swapper.stdout is not None
            swapper.stdout.readline()
            for _ in range(tries):
                code, out = _run(capsys, "budget", "sign", file, "--key", key, "--yes", "--json")
                assert code == 0
                told = json.loads(out)
                assert told["lines"] == describe(parse_change(told["change"]), None)
        finally:
            one.unlink()
            swapper.wait(60)


@pytest.mark.parametrize("opening", range(1, 4))
def test_propose_shows_what_it_wrote(
    opening: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state, file, other = tmp_path / "state", tmp_path / "raise.json", tmp_path / "other.json"
    monkeypatch.setenv("NARROWS_STATE", str(state))
    public = _run(capsys, "key", "operator", "new", "alice")[1].strip()
    words = ("--origin", "example.org/c1", "--operator", public, "--threshold", 1)
    assert _run(capsys, "ledger", "init", *words, "--witness-key", public)[0] == 0
    write_change_file(other, _change("budget", 10_000), [])
    with before_opening(file, opening, lambda: os.replace(other, file)):
        code, out = _run(
            capsys, "budget", "propose", "--lineage", "base-1", "--lifetime", "9TB",
            "--account", "answers", "--out", file, "--json",
        )  # fmt: skip
    assert code == 0
    assert json.loads(out)["change"]["limits"]["lifetime_bytes"] == 9 * 10**12
    assert "budget of lineage base-1: 9,000,000,000,000 bytes ever" in json.loads(out)["lines"]


def _link(path: Path) -> None:
    target = path.with_name("target.json")
    write_change_file(target, _change("budget", 10_000), [])
    path.symlink_to(target)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    "make",
    [_link, os.mkfifo, _socket, Path.mkdir, lambda path: path.symlink_to("/dev/zero")],
    ids=["link", "fifo", "socket", "folder", "device"],
)
def test_only_a_regular_file_is_signed(
    make: Callable[[Path], None], key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At once: a FIFO that nobody writes would hang the operator's terminal."""
    file = tmp_path / "change.json"
    make(file)
    before = sorted(tmp_path.iterdir())
    for command in (("sign", file, "--key", key, "--yes"), ("apply", file)):
        assert _run(capsys, "budget", *command)[0] == 2
    with pytest.raises(InputError):
        write_change_file(file, _change("budget", 10_000), [])
    assert sorted(tmp_path.iterdir()) == before


def test_devices_and_long_files_are_no_changes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no regular file"):
        read_change_file(Path("/dev/zero"))
    long = tmp_path / "long.json"
    long.write_bytes(encode({"change": "x" * (1 << 17)}) + b"\n")
    with pytest.raises(InputError, match="larger than"):
        read_change_file(long)


def test_a_key_is_a_regular_file(key: Path, tmp_path: Path) -> None:
    for make in (os.mkfifo, lambda path: path.symlink_to(key)):
        path = tmp_path / "other.key"
        make(path)
        with pytest.raises(BudgetError):
            load_private(path)
        path.unlink()


@pytest.mark.parametrize("opening", range(1, 5))
def test_what_is_restored_was_verified(
    opening: int,
    key: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A backup that is exchanged between its check and its copying is no ledger afterwards."""
    backup, empty = tmp_path / "backup.db", tmp_path / "empty.db"
    public = public_of(load_private(key)).hex()
    words = ("--operator", public, "--threshold", 1, "--witness-key", public)
    assert _run(capsys, "ledger", "init", "--origin", "example.org/c1", *words)[0] == 0
    assert _run(capsys, "ledger", "backup", backup)[0] == 0
    sqlite_store.create(empty)  # verification refuses it
    folder = tmp_path / "state" / "ledger"
    before = verify_path(folder / "ledger.db").size
    seen, real = 0, sqlite_store.connect

    def connect(path: Path, read_only: bool) -> Any:
        nonlocal seen
        seen += path == backup
        if path == backup and seen == opening:
            os.replace(empty, backup)
        return real(path, read_only)

    monkeypatch.setattr(sqlite_store.SqliteStore.__init__, "__defaults__", (False, connect))
    _run(capsys, "ledger", "restore", backup)
    assert verify_path(folder / "ledger.db").size == before
    assert not list(folder.glob("*restoring*"))
