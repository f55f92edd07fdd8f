"""``narrows tape``: two processes that carry a spool, and what they refuse."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from narrows.bench.gate_peers import start
from narrows.cli.tape.receive import app as receive
from narrows.cli.tape.ship import app as ship
from narrows.errors import InputError, PeerError
from narrows.wire.spool import SpoolReader, SpoolWriter
from narrows.wire.spool.file import new_key

PRIVATE, PUBLIC = new_key()


def run(app: object, *arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)  # type: ignore[arg-type]
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_a_spool_is_carried(tmp_path: Path) -> None:
    spool = SpoolWriter(tmp_path / "spool", PUBLIC, max_bytes=1 << 30, max_age_s=3600)
    spool.begin(bytes(32))
    spool.append(b"a tape")
    config = tmp_path / "narrows.toml"
    config.write_text(f'[gate.tape]\nfolder = "spool"\nauditor_key = "{PUBLIC.hex()}"\n')
    there = str(tmp_path / "there")
    child = start(
        ["-m", "narrows.cli.main", "tape", "receive", "--folder", there, "--listen", "127.0.0.1:0"]
    )
    try:
        to = f"127.0.0.1:{child.port}"
        sent = json.loads(run(ship, "--config", str(config), "--to", to, "--once"))
        assert sent["sent_bytes"] > 0
        assert SpoolReader(tmp_path / "there", PRIVATE).read(bytes(32), 0) == b"a tape"
        child.process.send_signal(signal.SIGTERM)
        assert child.process.wait(20) == 0
        with pytest.raises(PeerError, match="away"):
            run(ship, "--folder", str(tmp_path / "spool"), "--to", to, "--once")
    finally:
        child.kill()


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    config = tmp_path / "narrows.toml"
    config.write_text("[gate]\n")
    folder = str(tmp_path / "there")
    for app, arguments, reason in (
        (ship, ["--to", "127.0.0.1:1"], "not named"),
        (ship, ["--to", "127.0.0.1:1", "--config", str(config)], "no \\[gate.tape\\]"),
        (ship, ["--to", "10.1.1.1:1", "--folder", folder], "needs TLS"),
        (ship, ["--to", "10.1.1.1:1", "--folder", folder, "--cert-file", "x"], "belong together"),
        (receive, ["--folder", folder, "--listen", "0.0.0.0:0"], "needs TLS"),
        (receive, ["--folder", folder, "--listen", "127.0.0.1:0", "--max-size", "5"], "outside"),
    ):
        with pytest.raises(InputError, match=reason):
            run(app, *arguments)
    assert not Path(folder).exists()
