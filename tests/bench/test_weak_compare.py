"""Comparing weak models: the figures are those of the link, intervals hold what they say."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from models.models import artifact_path
from narrows.cli.main import main
from narrows.errors import InputError
from narrows.measure.compare import Measured, compare, frontier
from narrows.measure.plot import draw

WORDS = [
    "the",
    "gate",
    "counts",
    "every",
    "byte",
    "and",
    "a",
    "ledger",
    "writes",
    "it",
    "down",
    "before",
    "answers",
    "leave",
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("answers") / "dev.jsonl"
    rng = random.Random(3)
    rows = [
        {"prompt": " ".join(rng.choices(WORDS, k=3)), "response": " ".join(rng.choices(WORDS, k=9))}
        for _ in range(12)
    ]
    rows[0]["messages"] = [{"role": "system", "content": "be brief"},
                           {"role": "user", "content": "go"}]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_two_models_by_command(
    answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "frontier.png"
    with pytest.raises(SystemExit) as caught:
        main(["weak", "compare", "bytes", str(artifact_path("llama")), "--answers", str(answers),
              "--json", "--plot", str(plot), "--price-per-core-hour", "3.6"])  # fmt: skip
    assert not caught.value.code
    report = json.loads(capsys.readouterr().out)
    first, second = report["models"]
    assert (first["name"], second["name"]) == ("bytes", "llama")
    assert first["artifact_bytes"] == 0
    assert second["artifact_bytes"] == artifact_path("llama").stat().st_size
    for model in report["models"]:
        assert model["low"] < model["bits_per_byte"] < model["high"]
        assert 0 < model["tok_s"] <= max(model["encode_tok_s"], model["decode_tok_s"])
        assert model["rss_bytes"] > 10_000_000
        assert model["cost_per_million_tokens"] > 0
    (difference,) = report["differences"]
    assert difference["bits_per_byte"] == pytest.approx(
        second["bits_per_byte"] - first["bits_per_byte"]
    )
    assert difference["low"] < difference["bits_per_byte"] < difference["high"]
    assert plot.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(SystemExit) as caught:
        main(["weak", "compare", "bytes", "--answers", str(answers)])
    assert caught.value.code == 2
    assert "no comparison" in capsys.readouterr().err


def measured(bits: list[float], sizes: list[int]) -> Measured:
    return Measured("m", "", 0, tuple(bits), tuple(sizes), sum(sizes), 1.0, 1.0, 1.0, 0)


def test_intervals_cover() -> None:
    """Of 95 % intervals over drawn answers, about 95 % hold the true mean."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(60):
        sizes = rng.integers(50, 500, 80)
        bits = sizes * rng.normal(2.0, 0.5, 80)
        low, high = measured(bits.tolist(), sizes.tolist()).interval()
        held += low <= 2.0 <= high
    assert held >= 49  # fewer than 82 % has a chance below 1e-4


def test_the_frontier() -> None:
    points = [(100.0, 2.0), (200.0, 2.5), (50.0, 2.2), (300.0, 2.5), (10.0, 1.0), (100.0, 2.1)]
    assert frontier(points) == [3, 0, 4]


def test_mistakes_are_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        compare(["bytes", "bytes"], tmp_path / "none.jsonl", None, 1.0)
    row = '{"prompt": "p", "response": "r"}\n'
    (tmp_path / "a.jsonl").write_text(row + row)
    with pytest.raises(InputError, match="no model"):
        compare([str(tmp_path / "x.narrows"), "bytes"], tmp_path / "a.jsonl", None, 1.0)
    with pytest.raises(InputError, match="cannot write"):
        draw({"models": [], "frontier": [], "answers": 0}, tmp_path / "x.nonsense")
