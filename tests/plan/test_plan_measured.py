"""Bits per token from benchmarks and from a deployment's own traffic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narrows.cli.plan.measured import from_codec, from_ledger
from narrows.edge.books.stats import StatsRecorder
from narrows.edge.books.store import open_database
from narrows.errors import InputError
from narrows.plan.scenario import build


def written(folder: Path, value: object) -> Path:
    path = folder / "codec.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_bits_per_byte_become_a_range(tmp_path: Path) -> None:
    found = from_codec(written(tmp_path, {"bits_per_byte": 0.7, "answers": 176, "ratio": 11.4}))
    scenario = build(None, "deepseek-v3", found.overrides)
    compressed = scenario.numbers["coding.compressed"]
    assert (compressed.p5, compressed.p95) == pytest.approx((2.8, 3.36))
    assert "176 answers" in found.note


def test_tokens_give_an_exact_value(tmp_path: Path) -> None:
    found = from_codec(written(tmp_path, {"bits_per_byte": 1, "link_bytes": 250, "tokens": 1000}))
    assert found.overrides == {"coding.compressed": "2 bits/token"}


def test_coupled_results(tmp_path: Path) -> None:
    found = from_codec(written(tmp_path, {"coupled_bits": 1.25, "CE": 3.4, "KL": 0.42}))
    assert found.overrides == {
        "coding.coupled": "1.25 bits/token",
        "coding.compressed": "3.4 bits/token",
    }


@pytest.mark.parametrize(
    "value",
    ["", "[]", "{", "{}", '{"bits_per_byte": -1}', '{"bits_per_byte": true}', "[" * 10_000,
     '{"bits_per_byte": NaN}', '{"bits_per_byte": "1"}', '{"bits_per_byte": 1' + "0" * 400 + "}"],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(InputError):
        from_codec(written(tmp_path, value))


def test_missing_file() -> None:
    with pytest.raises(InputError, match="cannot read"):
        from_codec(Path("/nonexistent.json"))


def test_traffic_of_a_deployment(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    recorder = StatsRecorder(database, lambda: 1_700_000_000.0)
    counts = recorder.traffic("weak")
    counts.answers, counts.answer_bytes, counts.link_bytes, counts.tokens = 3, 4_000, 250, 1_000
    assert recorder.flush()
    database.close()
    found = from_ledger(tmp_path)
    assert found.overrides["coding.compressed"] == "2 bits/token"
    assert found.overrides["demand.tokens_per_day"] == "1000 tokens/day"
    scenario = build(None, "llama-3.1-8b", found.overrides)
    assert scenario.numbers["demand.tokens_per_day"].p5 == 1_000
    # a gate in the same folder says what timing costs on top
    path = tmp_path / "gate" / "stats.json"
    path.parent.mkdir()
    ports = {
        "answers": {"sent_bytes": 1_000, "timing_bytes": 250},
        "telemetry": {"sent_bytes": 10, "timing_bytes": 10},
    }
    path.write_text(json.dumps({"ports": ports}))
    found = from_ledger(tmp_path)
    assert found.overrides["coding.compressed"] == "2.5 bits/token"
    assert "25.0% more" in found.note
    path.write_text(json.dumps({"ports": {"answers": {"sent_bytes": 0, "timing_bytes": 5}}}))
    assert from_ledger(tmp_path).overrides["coding.compressed"] == "2 bits/token"
    path.write_text("words")
    with pytest.raises(InputError, match="delete it"):
        from_ledger(tmp_path)


def test_a_deployment_without_answers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no answers"):
        from_ledger(tmp_path)
    with pytest.raises(InputError, match="no state folder"):
        from_ledger(tmp_path / "none")


def test_the_ledger_is_read_where_there_is_one(tmp_path: Path) -> None:
    from narrows.ledger.office.demo import create_demo

    create_demo(tmp_path, 10_000)
    with pytest.raises(InputError, match="no answers"):
        from_ledger(tmp_path)
    database = open_database(tmp_path)
    recorder = StatsRecorder(database, lambda: 1_700_000_000.0)
    counts = recorder.traffic("weak")
    counts.answers, counts.link_bytes, counts.tokens = 1, 100, 400
    assert recorder.flush()
    database.close()
    assert "1 answers in 1 days" in from_ledger(tmp_path).note
