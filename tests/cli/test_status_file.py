"""``narrows status`` over a gate's stats file that somebody changed: a sentence, no traceback."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from narrows.cli.status import collect, table
from narrows.coding.events import Coding
from narrows.edge.books.figures import series
from narrows.edge.books.stats import StatsRecorder
from narrows.edge.books.store import open_database
from narrows.errors import InputError
from narrows.ledger.office.demo import create_demo

NOW_S = 1_800_000_000.0


def test_a_changed_stats_file_is_named(tmp_path: Path) -> None:
    create_demo(tmp_path, 1000)
    assert collect(tmp_path, NOW_S)["gate_ports"] == {}
    path = tmp_path / "gate" / "stats.json"
    path.parent.mkdir()
    path.write_text('{"ports": {"answers": {"timing_bytes": 5, "state": "ok"}}}')
    assert collect(tmp_path, NOW_S)["gate_ports"]["answers"]["timing_bytes"] == 5
    for text in ("", "words", "[]", "[" * 100_000, '{"ports": 5}', '{"ports": {"a": 3}}', "{}",
                 '{"ports": {"a": {"timing_bytes": "5"}}}', '{"ports": {}, "unwritten": 5}',
                 '{"ports": {}, "unwritten": {"count": "5"}}', '{"ports": {}, "tape": 5}',
                 '{"ports": {}, "tape": {"state": 5}}', '{"ports": {}, "tape": {"chapters": 5}}',
                 '{"ports": {}, "tape": {"state": "x", "spool_bytes": "5"}}'):  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError):
            collect(tmp_path, NOW_S)


def test_figures_of_a_gate_that_has_ended_are_not_shown_as_its_state(tmp_path: Path) -> None:
    create_demo(tmp_path, 1000)
    path = tmp_path / "gate" / "stats.json"
    path.parent.mkdir()
    path.write_text('{"ports": {"answers": {"timing_bytes": 5, "state": "ok"}}}')
    for age_s, said in (
        (1.0, "state ok"),
        (90.0, "no gate runs here, or its disk is full: silent for 90 s"),
    ):
        os.utime(path, (NOW_S - age_s, NOW_S - age_s))
        assert collect(tmp_path, NOW_S)["gate_silent_s"] == pytest.approx(age_s, abs=0.01)
        console = Console(width=200)
        with console.capture() as told:
            console.print(table(collect(tmp_path, NOW_S)))
        assert said in told.get()
    first = collect(tmp_path, NOW_S) | {"gate_silent_s": None}  # written between two readings
    console.print(table(first))


def test_how_answers_crossed_is_shown(tmp_path: Path) -> None:
    create_demo(tmp_path, 1000)
    assert collect(tmp_path, NOW_S)["codings_today"] == {}
    with closing(open_database(tmp_path)) as database:
        stats = StatsRecorder(database, lambda: NOW_S)
        for coding in (Coding.COUPLED, Coding.COUPLED, Coding.TEXT):
            stats.coded(coding)
        assert stats.flush()
        stats.coded(Coding.COUPLED)
        assert stats.flush()
    figures = collect(tmp_path, NOW_S)
    assert figures["codings_today"] == {"coupled": 3, "text": 1}
    console = Console(width=200)
    with console.capture() as told:
        console.print(table(figures))
    line = next(line for line in told.get().splitlines() if "crossed today" in line)
    said = " ".join(line.split())
    assert said == "crossed today 3 coupled 1 as text, why: docs/engines.md"
    with console.capture() as told:
        console.print(table(figures | {"codings_today": {"[newer]": 2}}))
    assert "2 [newer]" in told.get()
    assert collect(tmp_path, NOW_S + 86_400)["codings_today"] == {}
    with closing(open_database(tmp_path)) as database:
        database.execute("DROP TABLE codings")
    assert collect(tmp_path, NOW_S)["codings_today"] == {}


def test_how_the_tape_stands_is_shown(tmp_path: Path) -> None:
    create_demo(tmp_path, 1000)
    path = tmp_path / "gate" / "stats.json"
    path.parent.mkdir()
    for tape, said in (
        ('"state": "off"', ""),
        (
            '"state": "stopped", "why": "the spool [x] is full"',
            "tape stopped the spool [x] is full",
        ),
        (
            '"state": "copying", "why": "", "chapters": 3, "spool_bytes": 5000, "max_bytes": 9000',
            "tape copying chapter 3; 5,000 of 9,000 B in the spool",
        ),
    ):
        path.write_text(f'{{"ports": {{}}, "tape": {{{tape}}}}}')
        console = Console(width=200)
        with console.capture() as told:
            console.print(table(collect(tmp_path, NOW_S)))
        lines = [" ".join(line.split()) for line in told.get().splitlines() if "tape" in line]
        assert lines == ([said] if said else [])


def test_the_edges_figures_outlive_it_and_its_gauges_do_not(tmp_path: Path) -> None:
    create_demo(tmp_path, 1000)
    assert collect(tmp_path, NOW_S)["edge_figures"] == []
    for _ in range(2):  # two edges, one after the other
        with closing(open_database(tmp_path)) as database:
            stats = StatsRecorder(database, lambda: NOW_S)
            stats.figures.add("narrows_request_errors_total", code="overloaded", status="429")
            stats.figures.observe("narrows_first_token_seconds", 0.3, coding="plain")
            stats.figures.observe("narrows_first_token_seconds", 99.0, coding="plain")
            stats.put_gauges({series("narrows_edge_links"): 2.0})
            assert stats.flush()
    figures = collect(tmp_path, NOW_S)
    plain, named = {"coding": "plain"}, "narrows_first_token_seconds"
    assert figures["edge_runs"]
    assert figures["edge_figures"] == [
        {"name": "narrows_edge_links", "labels": {}, "value": 2.0},
        {"name": named, "labels": plain | {"le": "+Inf"}, "value": 2.0},
        {"name": named, "labels": plain | {"le": "0.5"}, "value": 2.0},
        {"name": f"{named}_sum", "labels": plain, "value": pytest.approx(198.6)},
        {
            "name": "narrows_request_errors_total",
            "labels": {"code": "overloaded", "status": "429"},
            "value": 2.0,
        },
    ]
    later = collect(tmp_path, NOW_S + 60)
    assert not later["edge_runs"]
    assert "narrows_edge_links" not in {one["name"] for one in later["edge_figures"]}
    with closing(open_database(tmp_path)) as database:
        database.execute("DROP TABLE figures")
    assert collect(tmp_path, NOW_S)["edge_figures"] == []
