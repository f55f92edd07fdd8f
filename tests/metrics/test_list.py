"""The list of metrics against what is exposed, the rules, the dashboard and the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from narrows.bench.metrics.busy import BusyFolder
from narrows.deploy.verdicts import read_book
from narrows.ledger.stores.place import LedgerPlace
from narrows.metrics.dashboard import dashboard_json
from narrows.metrics.enclave import KNOWN, EnclaveFigures
from narrows.metrics.exposition import exposition, value
from narrows.metrics.rules import ALERTS, rules_yaml
from narrows.metrics.sampler import LedgerReader, Sampler
from narrows.metrics.table import BY_NAME, HISTOGRAM, METRICS, markdown

ROOT = Path(__file__).parents[2]
PROMTOOL = shutil.which("promtool")


def promtool(*words: str, said: bytes = b"") -> None:
    """It agrees, without a warning."""
    if PROMTOOL is None:
        pytest.skip("promtool of Prometheus is not installed")
    done = subprocess.run([PROMTOOL, *words], input=said, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def enclave() -> EnclaveFigures:
    """One that said everything it knows."""

    def nobody() -> Any:
        raise NotImplementedError

    figures = EnclaveFigures(nobody, lambda: 0.0)
    figures._connected = True
    figures.hear(f"2026-01-01 00:00:00 figures {json.dumps(dict.fromkeys(KNOWN, 1))}")
    return figures


@pytest.fixture(scope="module")
def scrapes(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, str]:
    """Of a folder where every role has left something, without and with keys."""
    folder = tmp_path_factory.mktemp("busy")
    with closing(BusyFolder(folder, 200, ports=2, models=1, keys=2)) as busy:
        busy.work(3)
        with closing(LedgerReader(LedgerPlace(folder))) as reader:
            busy.work(2)
            lease = busy.ledger.acquire("answers", 1000)
            bodies = {}
            for per_key in (False, True):
                sampler = Sampler(
                    folder, reader, lambda: asdict(read_book(folder)), enclave(), per_key
                )
                sampler.sample()
                bodies[per_key] = sampler.body.decode()
            busy.ledger.settle(lease, 0)  # type: ignore[arg-type]
    return bodies


def test_everything_of_the_list_is_exposed_and_promtool_has_no_word_to_say(
    scrapes: dict[bool, str],
) -> None:
    for per_key, body in scrapes.items():
        shown = set(re.findall(r"^# TYPE (\w+) ", body, re.MULTILINE))
        assert shown == {one.name for one in METRICS if per_key or not one.per_key}
        promtool("check", "metrics", said=body.encode())
    ups = dict(re.findall(r'^narrows_role_up{role="(\w+)"} (\S+)$', scrapes[False], re.MULTILINE))
    assert ups == dict.fromkeys(("ledger", "witness", "gate", "edge", "auditor", "enclave"), "1.0")


def test_nothing_is_by_key_unless_it_is_asked_for(scrapes: dict[bool, str]) -> None:
    assert "key=" not in scrapes[False]
    assert 'narrows_key_link_bytes_total{key="2"} 105.0' in scrapes[True]
    assert {one.name for one in METRICS if one.per_key} == {
        one.name for one in METRICS if "key" in one.labels
    }


def test_a_histogram_has_all_its_buckets_and_adds_them_up(scrapes: dict[bool, str]) -> None:
    rows = re.findall(
        r'^narrows_first_token_seconds_bucket{coding="text",le="(\S+)"} (\S+)$',
        scrapes[False],
        re.MULTILINE,
    )
    counts = [float(count) for _, count in rows]
    assert len(rows) == 11
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0.0, 8.0)  # two moments' work, four answers each
    assert 'narrows_first_token_seconds_count{coding="text"} 8.0' in scrapes[False]


def test_what_is_no_metric_of_the_list_is_never_exposed() -> None:
    odd = [
        value("narrows_other", 1),
        value("narrows_leases", 1, gate="g"),
        value("narrows_leases", float("nan"), gate="g", account="a"),
        value("narrows_leases", float("inf"), gate="g", account="a"),
        value("narrows_ledger_leaves_sum", 1),
        value("narrows_first_token_seconds", 1, coding="text", le="x"),
        value("narrows_first_token_seconds_sum", 1, coding="text", le="1"),
    ]
    assert exposition(odd) == b""
    same = [value("narrows_ledger_leaves", 1), value("narrows_ledger_leaves", 2)]
    assert exposition(same).count(b"\nnarrows_ledger_leaves ") == 1
    quoted = exposition([value("narrows_gate_port_state", 1, port='a"\n{', state="\\")]).decode()
    assert 'port="a\\"\\n{",state="\\\\"' in quoted


def known(expressions: str) -> bool:
    names = set(re.findall(r"\bnarrows_\w+", expressions))
    bases = {name.removesuffix("_bucket") for name in names}
    buckets = {name for name in names if name.endswith("_bucket")}
    assert names
    return bases <= set(BY_NAME) and all(
        BY_NAME[name.removesuffix("_bucket")].kind == HISTOGRAM for name in buckets
    )


def test_rules_name_metrics_and_labels_of_the_list_and_promtool_takes_them(tmp_path: Path) -> None:
    for alert in ALERTS:
        assert known(alert.expression), alert.name
        labels = set(re.findall(r"\$labels\.(\w+)", alert.summary))
        of = {
            label
            for name in re.findall(r"\bnarrows_\w+", alert.expression)
            for label in BY_NAME[name.removesuffix("_bucket")].labels
        }
        assert labels <= of, alert.name
    path = tmp_path / "rules.yml"
    path.write_text(rules_yaml())
    promtool("check", "rules", "--lint-fatal", str(path))


def test_the_dashboard_shows_every_metric_once_by_role(tmp_path: Path) -> None:
    board = json.loads(dashboard_json())
    panels = [one for row in board["panels"] for one in (row, *row.get("panels", []))]
    assert len({one["id"] for one in panels}) == len(panels)
    expressions = [target["expr"] for one in panels for target in one.get("targets", [])]
    assert all(known(expression) for expression in expressions)
    inside = [one for row in board["panels"] for one in row.get("panels", [])]
    assert len(inside) == sum(1 for one in METRICS if not one.per_key)
    rules = [
        {"record": "x", "expr": expression.replace("$__rate_interval", "5m")}
        for expression in expressions
    ]
    path = tmp_path / "expressions.yml"  # JSON is YAML
    path.write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    promtool("check", "rules", "--lint=none", str(path))


def test_the_page_has_the_list() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert markdown() in page, "narrows metrics --list prints the table"
    assert not [one.name for one in ALERTS if f"`{one.name}`" not in page]
