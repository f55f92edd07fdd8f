"""The commands around the auditor's role: keys, pins, what is refused before anything is made."""

from __future__ import annotations

import io
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from subprocess import SubprocessError
from typing import Any

import pytest
from rich.console import Console

from cli.here import run
from narrows.audit.role.config import AuditConfig
from narrows.cli.status import collect, table
from narrows.deploy import supervise
from narrows.deploy.config import load_config
from narrows.deploy.supervise import Role, Supervisor
from narrows.deploy.verdicts import VerdictBook, read_book, write_book
from narrows.errors import InputError
from narrows.ledger.keys import load_private, public_of
from narrows.ledger.office import balances
from narrows.ledger.office.demo import audit_demo, create_demo
from narrows.wire.spool.file import public_of as tape_public_of


def test_keygen_makes_three_keys_and_says_the_public_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "keys"
    said = json.loads(run(capsys, "audit", "keygen", "--out", out, "--json"))
    assert said["auditor"] == public_of(load_private(out / "audit.key")).hex()
    assert said["tape"] == tape_public_of((out / "tape.key").read_bytes()).hex()
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in out.iterdir())
    assert len({path.read_bytes() for path in out.iterdir()}) == 3
    assert "never overwritten" in run(capsys, "audit", "keygen", "--out", out, code=2)


def test_serve_says_what_the_section_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "narrows.toml"
    config.write_text("[audit]\n")
    said = run(capsys, "audit", "serve", "--config", config, code=2)
    assert "does not say spool, keys, enrolment, journal" in said
    config.write_text('[audit]\nperiod_s = 0\nverdict_bytes = 100\non_alarm = "shout"\n')
    said = run(capsys, "audit", "serve", "--config", config, code=2)
    for key in ("period_s", "verdict_bytes", "on_alarm"):
        assert key in said


def test_files_of_the_section_lie_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "narrows.toml").write_text('[audit]\nspool = "s"\nports = {chat = "answers"}\n')
    audit = load_config(tmp_path / "narrows.toml").audit
    assert audit.spool == tmp_path / "s"
    assert audit.ports == {"chat": "answers"}
    assert AuditConfig().check().keys is None


def test_up_refuses_an_auditor_where_it_cannot_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = ("--upstream-url", "http://127.0.0.1:1/v1")
    said = run(capsys, "up", "--audit", "--state", tmp_path / "s", *url, code=2)
    assert "an upstream server answers here" in said
    monkeypatch.setattr("narrows.deploy.isolated._check_host", lambda: None)
    config = tmp_path / "narrows.toml"
    config.write_text('[enclave.isolated]\ncommand = ["server"]\n')
    words = ("up", "--audit", "--isolated", "--state", tmp_path / "s", "--config", config)
    assert "an upstream server answers here" in run(capsys, *words, *url, code=2)
    assert not (tmp_path / "s").exists()


def test_status_shows_net_and_what_the_auditor_said(tmp_path: Path) -> None:
    create_demo(tmp_path, 1_000_000)
    found = collect(tmp_path, time.time())
    assert (found["net"], found["verdicts"]) == ([], None)
    first = audit_demo(tmp_path, "gate", "d7" * 31 + "5a", "11" * 32, 1024)
    again = audit_demo(tmp_path, "gate", "d7" * 31 + "5a", "11" * 32)
    assert first["epoch"] == again["epoch"]
    assert again["grain_bytes"] == 1024
    write_book(tmp_path, VerdictBook("e", 3, int(time.time()), 1, 512, 2, 1, "[red]why", "e"))
    found = collect(tmp_path, time.time())
    assert found["net"][0]["granted_bytes"] == found["net"][0]["left_bytes"] == 1_000_000
    assert found["verdicts"]["closed"]
    assert found["verdicts"]["alarms"] == ["alarm"]
    assert found["verdicts"]["credit_age_s"] is None
    assert found["verdicts"]["explained_today"] is None
    assert found["tape_age_s"] is None
    table(found)


def test_status_says_how_old_what_is_and_what_share_was_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_demo(tmp_path, 1_000_000)
    now_s = 20_000 * 86_400 + 7200.0
    book = VerdictBook("e", 3, int(now_s) - 4, credited_bytes=900, credits=2)
    book = replace(book, credit_s=int(now_s) - 60, credit_bytes=512, lineage="demo")
    write_book(tmp_path, replace(book, day=20_000, day_credited_bytes=600))
    gate = {"tape": {"state": "copying", "spool_bytes": 5, "oldest_ms": int(now_s - 90) * 1000}}
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate" / "stats.json").write_text(json.dumps({"ports": {}} | gate))
    real = balances.balances_of

    def spent(*words: Any) -> Any:
        found = real(*words)
        lineages = tuple(replace(line, spent_bytes=1200) for line in found.lineages)
        return replace(found, lineages=lineages)

    monkeypatch.setattr(balances, "balances_of", spent)
    found = collect(tmp_path, now_s)
    verdicts = found["verdicts"]
    assert found["tape_age_s"] == 90
    assert (verdicts["silent_s"], verdicts["credit_age_s"], verdicts["credit_bytes"]) == (
        4,
        60,
        512,
    )
    assert (verdicts["explained_today"], verdicts["credited_today_bytes"]) == (0.5, 600)
    said = io.StringIO()
    Console(file=said, width=200).print(table(found))
    for words in ("last credit 60 s ago, 512 B", "explained today: 50.0%", "since 90 s"):
        assert words in said.getvalue()
    tomorrow = collect(tmp_path, now_s + 86_400)["verdicts"]
    assert (tomorrow["explained_today"], tomorrow["credited_today_bytes"]) == (None, 0)


def test_a_damaged_book_of_verdicts_is_said(tmp_path: Path) -> None:
    assert read_book(tmp_path) == VerdictBook()
    write_book(tmp_path, VerdictBook(epoch="e", sequence=9))
    assert read_book(tmp_path).sequence == 9
    first_form = dict(list(asdict(VerdictBook(sequence=7)).items())[:9])
    (tmp_path / "audit-post" / "verdicts.json").write_text(json.dumps(first_form))
    assert read_book(tmp_path).sequence == 7
    for text in ("", "{}", "[]", '{"epoch": 5}', "nul"):
        (tmp_path / "audit-post" / "verdicts.json").write_text(text)
        with pytest.raises(InputError, match="no book of verdicts"):
            read_book(tmp_path)


def test_a_spared_role_is_started_anew_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Supervisor, "_wait_ready", lambda self, role, timeout_s: {})
    supervisor = Supervisor(tmp_path)
    role: Role = supervisor.start("spared", ["--version"], spared=True)
    try:
        first = role.process
        first.wait(60)
        assert supervisor.dead() is None
        supervisor.revive(100.0)
        assert role.process is first
        supervisor.revive(100.0 + supervise.REVIVE_S)
        assert role.process is not first
        role.process.wait(60)
        _check_what_cannot_be_started_is_tried_again(supervisor, role)
        other = supervisor.start("vital", ["--version"])
        other.process.wait(60)
        assert supervisor.dead() is other
    finally:
        supervisor.stop()


def _check_what_cannot_be_started_is_tried_again(supervisor: Supervisor, role: Role) -> None:
    ended, again, tries = role.process, role.again, 0

    def fails() -> Any:
        nonlocal tries
        tries += 1
        raise (OSError("full"), SubprocessError("in the child"), InputError("refused"))[tries - 1]

    role.again, now_s = fails, 1000.0
    supervisor.revive(now_s)
    for number in range(3):
        supervisor.revive(now_s := now_s + supervise.REVIVE_S)
        supervisor.revive(now_s)
        assert tries == number + 1, "one try each time"
        assert role.process is ended
    role.again = again
    supervisor.revive(now_s + supervise.REVIVE_S)
    assert role.process is not ended
    role.process.wait(60)
