"""From answers to an artifact that the exact runtime computes like the float model."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "models"))

from tiny import tiny_source

from narrows.cli.main import main
from narrows.models.checkpoint.pack import pack
from narrows.models.registry import load_model
from narrows.training.recipe import Recipe, StudentShape

TEXT = "the gate counts every byte and a ledger writes it down before an answer leaves"
WORDS = TEXT.split(" ")
RECIPE = Recipe(
    student=StudentShape(32, 1, 2, 1, 16, 64, 256), keep_tokens=300, dev_percent=20,
    batch_tokens=512, steps=60, eval_steps=30, bf16=False, text_until=1.0,
)  # fmt: skip


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.narrows"
    pack(tiny_source(), path, name="teacher", threads=1)
    return path


def _narrows(*arguments: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert not caught.value.code


def _answers(path: Path) -> Path:
    random = np.random.default_rng(2)
    rows = [
        {"prompt": " ".join(random.choice(WORDS, 3)), "response": " ".join(WORDS[n % 9 :])}
        for n in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_job_ends_in_an_artifact_that_loses_nothing(tmp_path: Path, teacher: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    from narrows.training.compare import exact_and_float_bits
    from narrows.training.job import pack_job, train_job

    answers, run, out = _answers(tmp_path / "a.jsonl"), tmp_path / "run", tmp_path / "x.narrows"
    best = train_job(RECIPE, run, teacher=str(teacher), shards=None, answers=[answers])
    assert best < 6  # of log2(400) = 8.6 at the start
    pack_job(RECIPE, run, out, teacher=str(teacher), name="x", provenance={"license": "none"})
    model = load_model(out, threads=1)
    assert model.tokenizer.digest == load_model(teacher, threads=1).tokenizer.digest
    exact, floating = exact_and_float_bits(
        RECIPE, run, out, teacher=str(teacher), shards=None, answers=[answers], limit=6
    )
    assert exact == pytest.approx(floating, rel=0.02)
    # Another recipe must not go on with this run's checkpoint.
    from narrows.errors import InputError

    with pytest.raises(InputError, match="another recipe"):
        train_job(
            replace(RECIPE, steps=70), run, teacher=str(teacher), shards=None, answers=[answers]
        )


def test_sample_then_train_by_command(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("".join(f'{{"id": "{n}", "prompt": "say {n}"}}\n' for n in range(30)))
    shards = tmp_path / "shards"
    sample = ["weak", "sample", str(prompts), "--out", str(shards), "--model", str(teacher)]
    _narrows(*sample, "--max-tokens", "8", "--top-k", "4", "--json")
    assert json.loads(capsys.readouterr().out)["answers"] == 30
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        "steps = 4\neval_steps = 2\nbf16 = false\nbatch_tokens = 256\ndev_percent = 30\n"
        "[student]\nd_model = 32\nlayers = 1\nheads = 2\nkv_heads = 1\nhead_dim = 16\n"
        "d_ff = 64\ncontext = 256\n"
    )
    out = tmp_path / "o.narrows"
    train = ["weak", "train", "--shards", str(shards), "--run", str(tmp_path / "run")]
    train += ["--out", str(out), "--teacher", str(teacher), "--recipe", str(recipe), "--json"]
    _narrows(*train, "--threads", "1")
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["bytes"] == out.stat().st_size
    _narrows("weak", "check", str(out))
