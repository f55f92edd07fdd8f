"""``narrows up --audit``: what is explained comes back, and nobody waits for the auditor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from audit.rig import strong, tiny_path
from e2e.test_up import until
from narrows.audit.role.keys import make_auditor_keys
from narrows.cli.status import collect
from narrows.ledger.office.demo import audit_demo, create_demo
from narrows.private import private_folder
from ports import free_port


class Up:
    """``up --audit`` on tiny models, with credits of 16 bytes and a verdict every half second.
    ``more``: further words of the command."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.state, self.port = folder / "state", free_port()
        create_demo(self.state, 10_000_000)
        private_folder(self.state, "audit")
        keys = make_auditor_keys(private_folder(self.state, "audit", "keys"))
        audit_demo(self.state, "gate", keys.public.hex(), strong().digest.hex(), 16)
        config = folder / "narrows.toml"
        config.write_text(
            f'[enclave]\nmodel = "{tiny_path(1)}"\nweak = ["{tiny_path(2)}"]\n'
            f'[edge]\nweak = ["{tiny_path(2)}"]\nmodel_name = "tiny"\nprobe = false\n'
            f'[audit]\nperiod_s = 0.5\nweak = ["{tiny_path(2)}"]\n'
        )
        words = f"up --audit --config {config} --state {self.state} --port {self.port}"
        with (folder / "said").open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "narrows.cli.main", *words.split(), *more],
                stdout=said,
                stderr=said,
                stdin=subprocess.DEVNULL,
            )
        self.said = folder / "said"

    def ask(self, number: int) -> None:
        client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", timeout=60
        )
        client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": f"hello {number}"}],
            max_tokens=100,
            temperature=1.0,
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(collect(self.state, time.time())))
        return found

    def credited(self) -> int:
        return int(self.status()["net"][0]["credited_bytes"])

    def auditor_pid(self) -> int:
        """Of the process that holds the journal."""
        for folder in Path("/proc").iterdir():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            mine = str(self.state / "run" / "effective.toml").encode()
            if b"audit" in words and b"serve" in words and mine in words:
                return int(folder.name)
        return 0


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    one = Up(tmp_path)
    try:
        until(lambda: "Serving" in one.said.read_text() or one.process.poll() is not None, "up")
        assert one.process.poll() is None, one.said.read_text()
        yield one
    finally:
        one.process.send_signal(signal.SIGINT)
        one.process.wait(60)


def asking(up: Up, condition: Callable[[], bool], what: str) -> None:
    numbers = iter(range(10_000))

    def ask_and_look() -> bool:
        for _ in range(4):
            up.ask(next(numbers))
        return condition()

    until(ask_and_look, what)


def net_spent(up: Up) -> int:
    return int(up.status()["net"][0]["spent_bytes"])


@pytest.mark.slow
def test_what_the_auditor_explains_comes_back_and_it_may_be_away(up: Up) -> None:
    """That it may die is tested in its sandbox: ``isolate/test_isolated_audit.py``."""
    asking(up, lambda: up.credited() > 0, f"no credit: {up.state}/log")
    found = up.status()
    [net] = found["net"]
    assert net["spent_bytes"] <= found["spent_bytes"] - net["credited_bytes"]
    assert found["verdicts"]["refused"] == 0
    assert not found["verdicts"]["closed"]

    # Away: answers go on, and what they cost stays spent.
    pid = up.auditor_pid()
    os.kill(pid, signal.SIGSTOP)
    until(lambda: up.status()["verdicts"]["silent_s"] > 2, "it still speaks")
    had, spent = up.credited(), net_spent(up)
    asking(up, lambda: net_spent(up) > spent, "the net budget does not fill")
    assert up.credited() == had

    os.kill(pid, signal.SIGCONT)
    asking(up, lambda: up.credited() > had, "credits do not go on")
    assert up.auditor_pid() == pid
