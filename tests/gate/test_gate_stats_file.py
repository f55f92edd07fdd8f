"""Figures that cannot be written end nothing: said in the log, counted, shown by the status."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from gate.gate_fakes import FakeLedger, enclave, running_gate
from narrows.cli.status import collect, table
from narrows.gate.main import _log
from narrows.gate.stats_file import StatsFile
from narrows.ledger.office.demo import create_demo


def test_a_gate_whose_figures_cannot_be_written_goes_on(tmp_path: Path) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"word")
        await reader.read()

    async def scenario() -> None:
        (tmp_path / "gate").write_text("a file where the folder belongs")
        ledger = FakeLedger(1_000_000)
        async with enclave(speak) as inside, running_gate(ledger, inside, tmp_path) as gate:
            while not gate.stats()["unwritten"]["count"]:  # type: ignore[index]
                await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports[0].listening)
            assert await reader.readexactly(4) == b"word"
            (tmp_path / "gate").unlink()
            while not (tmp_path / "gate" / "stats.json").exists():
                await asyncio.sleep(0.01)
            writer.close()
            (tmp_path / "gate" / "stats.new").mkdir()  # the last write fails, too
        written = json.loads((tmp_path / "gate" / "stats.json").read_text())
        assert written["unwritten"]["count"] >= 1

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_it_is_said_once_and_so_is_the_end(tmp_path: Path) -> None:
    said: list[str] = []
    file = StatsFile(tmp_path / "gate" / "stats.json", said.append)
    (tmp_path / "gate").touch()
    assert not file.replace({})
    assert not file.replace({})
    (tmp_path / "gate").unlink()
    assert file.replace({})
    assert len(said) == 2
    assert "the gate goes on" in said[0]
    assert said[1] == "the figures are written again"
    assert file.failures()["count"] == 2


def test_the_status_shows_it(tmp_path: Path) -> None:
    create_demo(tmp_path, 1000)
    path = tmp_path / "gate" / "stats.json"
    path.parent.mkdir()
    path.write_text('{"ports": {}, "unwritten": {"count": 3, "last": "No space [left]"}}')
    console = Console(width=200)
    with console.capture() as told:
        console.print(table(collect(tmp_path, path.stat().st_mtime)))
    assert "3 not written" in told.get()
    assert "No space [left]" in told.get()


def test_a_log_that_takes_no_line_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115 - its end fails, too
    monkeypatch.setattr(sys, "stderr", full)
    _log("words")
    monkeypatch.undo()
    with pytest.raises(OSError, match="No space"):
        full.close()
