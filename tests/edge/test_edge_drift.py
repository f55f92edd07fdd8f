"""Drift: a weak model that imitates worse than it did is named, with what helps."""

from __future__ import annotations

import json

import pytest

from edge.harness import Rig, native
from narrows.cli.status import collect
from narrows.edge.books.drift import judge, read_drift, save_bounds
from narrows.edge.books.stats import Imitation, StatsRecorder, read_codings
from narrows.edge.books.store import database_path, open_database
from narrows.edge.config import DriftConfig
from narrows.ledger.office.demo import create_demo
from narrows.models.shelf.shelf import Offer

BOUNDS = DriftConfig(worse_percent=10, days=3, min_bytes=1000)


def day(bits_per_byte, text_bytes=1000):
    return Imitation(10, text_bytes, round(bits_per_byte * text_bytes))


def days(*figures):
    return {f"2026-03-{n:02d}": day(*f) if isinstance(f, tuple) else day(f)
            for n, f in enumerate(figures, 1) if f}  # fmt: skip


@pytest.mark.parametrize(
    ("figures", "stated", "drifting", "reference"),
    [
        ((2.0, 2.0, 2.0, 2.0), 0.0, False, "first days"),
        ((2.0, 2.0, 2.2, 2.3), 0.0, False, "first days"),  # 8 % over three days
        ((2.0, 2.3, 2.3, 2.3), 0.0, True, "first days"),
        ((2.3, 2.3, 2.3, 2.3), 2.0, True, "signed"),
        ((2.0, 2.0, 2.0, 2.0), 1.9, False, "signed"),
        ((2.0, 3.0, None, None), 0.0, True, "first days"),
        ((2.0, None, None, (9.0, 100)), 0.0, False, ""),  # too little to judge by
        (((2.0, 100), (9.0, 100), None, None), 0.0, False, ""),
        (((2.0, 500), (2.0, 500), 4.0, None), 0.0, True, "first days"),
        ((9.0,), 0.0, False, ""),
    ],
)
def test_judgement(figures, stated, drifting, reference):
    found = judge("m", days(*figures), stated, BOUNDS, "2026-03-04")
    assert (found.drifting, found.reference) == (drifting, reference)
    assert bool(found.remedy) == drifting


def recorder(state, now):
    return StatsRecorder(open_database(state), lambda: now[0])


def test_status_says_so(tmp_path):
    create_demo(tmp_path, 10_000)
    now = [1_700_000_000.0]
    stats = recorder(tmp_path, now)
    save_bounds(open_database(tmp_path), BOUNDS)
    stats.models_seen({Offer("mine", b"\x01" * 32, b"", 1.5).label: 1.5})
    label = "mine 01010101"
    for _ in range(5):
        stats.imitation(label).add(7, 1000, 2000)
        assert stats.flush()
        now[0] += 86_400
    (one,) = collect(tmp_path, now[0])["weak_models"]
    assert json.loads(json.dumps(one)) == one
    assert one["weak"] == label
    assert one["drifting"]
    assert (one["reference"], one["reference_bits_per_byte"]) == ("signed", 1.5)
    assert one["worse"] == pytest.approx(1 / 3)
    assert "narrows weak train" in one["remedy"]
    from rich.console import Console

    from narrows.cli.status import table

    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(collect(tmp_path, now[0])))
    assert "33.3% worse" in console.export_text()
    assert collect(tmp_path, now[0] + 30 * 86_400)["weak_models"] == []


def test_complete_answers_are_what_counts(tmp_path):
    with Rig(tmp_path, drift=DriftConfig(min_bytes=1)) as rig:
        rig.enclave.script = lambda request: native("x" * 500)
        for _ in range(3):
            rig.ask()
    import time

    (one,) = read_drift(tmp_path, time.time())
    assert one.weak.startswith("flat ")
    assert one.answers == 3
    assert one.bits_per_byte > 8


def test_an_older_database_is_not_in_the_way(tmp_path):
    database = open_database(tmp_path)
    for table in ("imitation", "weak_models", "drift_bounds", "codings"):
        database.execute(f"DROP TABLE {table}")
    assert read_drift(tmp_path, 1e9) == []
    assert read_codings(tmp_path, 1e9) == {}
    database.close()
    open_database(tmp_path).close()
    assert read_drift(tmp_path, 1e9) == []
    assert database_path(tmp_path).exists()
