"""Logs as JSON: one object a line, whatever is in it, from the first line to the last."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from narrows.cli.dispatch import CommandTable
from narrows.cli.main import app
from narrows.ledger.office.demo import create_demo, demo_witness_key
from narrows.logs import MAX_MESSAGE_CHARS, MAX_RAISED_CHARS, json_line

ROLES = ("edge", "enclave", "gate", "witness", "metrics", "audit serve", "audit post", "up")
HOSTILE = 'end"}\n{"level": "FORGED"}\x1b[2J\u202e\ud800\x00'


def lines(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    for one in found:
        assert one.keys() - {"raised"} == {"time", "level", "role", "logger", "message"}
    return found


def test_a_line_is_one_line_of_ascii_and_bounded() -> None:
    text = json_line("INFO", "edge", "narrows.edge", HOSTILE, time_s=1.5)
    assert text.isascii()
    assert "\n" not in text
    (found,) = lines(text)
    assert found["message"] == HOSTILE
    assert found["time"] == "1970-01-01T00:00:01.500Z"
    (long,) = lines(json_line("INFO", "edge", "x", "m" * 10**6, "r" * 10**6))
    assert (len(long["message"]), len(long["raised"])) == (MAX_MESSAGE_CHARS, MAX_RAISED_CHARS)


ENDS = """
import logging, sys, threading, warnings
from narrows.logs import start_logging
start_logging("edge", "json")
log = logging.getLogger("narrows.edge")
log.info("one %s", HOSTILE)
log.info("two %d %d", 5)
warnings.warn("three")
try:
    raise ValueError(HOSTILE)
except ValueError:
    log.exception("four")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise OSError("six")
"""


def test_warnings_threads_and_the_end_of_a_process_are_lines_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"HOSTILE = {HOSTILE!r}{ENDS}"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    found = lines(done.stderr)
    assert [one["level"] for one in found] == [
        "INFO", "INFO", "WARNING", "ERROR", "CRITICAL", "CRITICAL",
    ]  # fmt: skip
    assert found[0]["message"] == f"one {HOSTILE}"
    assert "ZeroDivisionError" in found[4]["raised"]
    assert found[5]["message"] == "six"
    assert {one["role"] for one in found} == {"edge"}


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "narrows.cli.main", *words],
        capture_output=True, text=True, timeout=120, env=os.environ | environment,
    )  # fmt: skip


def test_a_role_that_cannot_start_says_so_in_its_form(tmp_path: Path) -> None:
    """And a gate's own lines, which do not go through ``logging``."""
    create_demo(tmp_path, 1000)
    (tmp_path / "narrows.toml").write_text("[gate]\nwitness_key = 5\nother = 1\n")
    words = ("gate", "--state", str(tmp_path), "--log-format", "json")
    bad = run(*words)
    assert bad.returncode != 0
    said = lines(bad.stderr)
    assert [(one["level"], one["role"]) for one in said] == [("ERROR", "gate")]
    assert "no such key" in said[0]["message"]
    key = demo_witness_key(tmp_path).hex()  # of one that nobody runs: the gate ends
    address = ("--listen", "127.0.0.1:0", "--enclave", "127.0.0.1:1", "--witness-key", key)
    (tmp_path / "narrows.toml").unlink()
    free = run(*words[:3], *address, "--witness", "127.0.0.1:1", NARROWS_LOG_FORMAT="json")
    assert [one["level"] for one in lines(free.stderr)][-1] == "ERROR"
    assert "kernel backstop: off" in lines(free.stderr)[0]["message"]


@pytest.mark.parametrize("role", ROLES)
def test_every_role_takes_the_option(role: str) -> None:
    table: Any = app
    for word in role.split():
        assert isinstance(table, CommandTable)
        table = importlib.import_module(table.commands[word][0]).app
    options = {name for one in get_command(table).params for name in one.opts}
    assert "--log-format" in options
