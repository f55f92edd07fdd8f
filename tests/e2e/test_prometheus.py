"""A real Prometheus scrapes the roles of ``narrows up``, and its rule rings when a window fills."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from e2e.fakes import ScriptedModel
from narrows.ledger.changes import sign_change
from narrows.ledger.keys import load_private
from narrows.ledger.ledger import Ledger
from narrows.ledger.limits import Limits
from narrows.ledger.office.admin import apply_change
from narrows.ledger.office.demo import ACCOUNTS, LINEAGE, create_demo
from narrows.ledger.office.propose import budget_document
from narrows.ledger.office.setup import open_witness
from narrows.ledger.stores.place import OPERATOR, LedgerPlace
from narrows.metrics.rules import rules_yaml
from ports import free_port

pytestmark = pytest.mark.slow

PATIENCE_S = 120.0
PROMETHEUS = shutil.which("prometheus")
CAP_BYTES = 8_000
TEXT_CHARS = 3_000
ROLES = {"ledger", "witness", "gate", "edge", "enclave"}
CONFIG = """
[enclave]
weak = ["bytes"]
telemetry_s = 0.3
[edge]
weak = ["bytes"]
limits.idle_s = 5
[metrics]
listen = "127.0.0.1:{port}"
sample_s = 0.3
"""
SCRAPE = """
global: {{scrape_interval: 500ms}}
rule_files: [rules.yml]
scrape_configs: [{{job_name: narrows, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def with_window(state: Path) -> None:
    """The demonstration's budget, with an hour's window beside its lifetime."""
    create_demo(state, 1_000_000)
    place = LedgerPlace(state)
    with (
        closing(open_witness(state)) as witness,
        closing(Ledger.open(place, witness=witness, gate=OPERATOR)) as ledger,
    ):
        limits = Limits(1_000_000, ((3_600_000, CAP_BYTES),))
        accounts = dict.fromkeys(ACCOUNTS, Limits(None))
        document = budget_document(ledger.state(), LINEAGE, limits, accounts, ledger.now_ms())
        key = load_private(place.folder / "operators" / "demo.key")
        apply_change(ledger, document, [sign_change(document, key)])


@contextmanager
def running(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def test_it_sees_every_role_and_rings_when_a_window_fills(
    tmp_path: Path, model: ScriptedModel
) -> None:
    if PROMETHEUS is None:
        pytest.skip("no Prometheus here: apt-get install prometheus")
    exporter, scraper, api = free_port(), free_port(), free_port()
    with_window(tmp_path / "state")
    (tmp_path / "narrows.toml").write_text(CONFIG.format(port=exporter))
    (tmp_path / "prometheus.yml").write_text(SCRAPE.format(port=exporter))
    (tmp_path / "rules.yml").write_text(rules_yaml(0.5))
    luck = random.Random(3)
    letters = [chr(code) for code in range(33, 127)]  # nobody guesses them: 6.5 bits each
    model.script = lambda body: ["".join(luck.choices(letters, k=TEXT_CHARS))]
    up = [sys.executable, "-m", "narrows.cli.main", "up", "--metrics", "--port", str(api)]
    up += ["--config", f"{tmp_path}/narrows.toml", "--state", f"{tmp_path}/state"]
    up += ["--upstream-url", model.url, "--upstream-model", "m"]
    prometheus = [PROMETHEUS, f"--config.file={tmp_path}/prometheus.yml"]
    prometheus += [
        f"--storage.tsdb.path={tmp_path}/tsdb",
        f"--web.listen-address=127.0.0.1:{scraper}",
    ]

    def asked(path: str, **query: str) -> Any:
        try:
            got = httpx2.get(f"http://127.0.0.1:{scraper}/api/v1/{path}", params=query)
        except httpx2.HTTPError:
            return {}
        return got.json().get("data", {})

    def numbers(expression: str, label: str) -> dict[str, float]:
        rows = asked("query", query=expression).get("result", [])
        return {row["metric"].get(label, ""): float(row["value"][1]) for row in rows}

    def firing() -> set[str]:
        alerts = asked("alerts").get("alerts", [])
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}

    said = tmp_path / "up.log"
    with running(up, said), running(prometheus, tmp_path / "prometheus.log"):
        until(lambda: "Serving m" in said.read_text(), "up does not serve")
        assert f"Metrics for Prometheus: http://127.0.0.1:{exporter}/metrics" in said.read_text()
        all_up = dict.fromkeys(ROLES, 1.0)
        until(lambda: numbers("narrows_role_up", "role") == all_up, "not every role is up")
        until(lambda: numbers("narrows_enclave_links", "job"), "the enclave says nothing")
        window = "narrows_budget_window_left_bytes"
        until(
            lambda: numbers(window, "window").get("3600s", 0) > CAP_BYTES / 2, "no window is seen"
        )
        assert "NarrowsWindowNearlyFull" not in firing()

        def ask() -> int:
            body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
            url = f"http://127.0.0.1:{api}/v1/chat/completions"
            return httpx2.post(url, json=body, timeout=60).status_code

        statuses = [ask()]
        while statuses[-1] == 200 and len(statuses) < 10:
            statuses.append(ask())
        assert statuses[-1] in (429, 503), statuses
        until(lambda: "NarrowsWindowNearlyFull" in firing(), "no alert fires")
        left = numbers(f"{window} / narrows_budget_window_cap_bytes", "window")
        assert left["3600s"] < 0.1
        until(
            lambda: numbers("narrows_request_errors_total", "status").keys() & {"429", "503"},
            "the refusal is not counted",
        )
        text = sum(numbers("narrows_answer_text_bytes_total", "coding").values())
        assert text == statuses.count(200) * TEXT_CHARS
        exposed = httpx2.get(f"http://127.0.0.1:{exporter}/metrics").text
        state = json.loads((tmp_path / "state" / "gate" / "stats.json").read_text())
        assert "key=" not in exposed
        assert state["ports"]["telemetry"]["sent_bytes"] > 0  # what the enclave said is charged
