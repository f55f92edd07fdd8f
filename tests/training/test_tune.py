"""Fine-tuning an existing model: the same base as the link's, rounding, merging, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "weak"))

from tiny import tiny_source

from narrows.errors import InputError
from narrows.training.recipe import Recipe, find_recipe

WORDS = "the gate counts every byte and a ledger writes it down before an answer leaves".split()
RECIPE = replace(
    find_recipe("lora"), rank=4, dev_percent=20.0, batch_tokens=256, max_prompt=64, max_tokens=128,
    steps=24, warmup_steps=2, eval_steps=8, bf16=False, rounded_from=0.5, embed_rate=0.01,
)  # fmt: skip


def answers_file(path: Path) -> Path:
    random = np.random.default_rng(2)
    rows = [
        {"prompt": " ".join(random.choice(WORDS, 3)), "response": " ".join(WORDS[n % 9 :])}
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def torch_logits(student: object, ids: list[int]) -> np.ndarray:
    import torch

    with torch.no_grad():
        logits = student.causal(torch.tensor([ids])).logits[0]  # type: ignore[attr-defined]
    return np.asarray(torch.log_softmax(logits, -1).numpy())


def runtime_logits(path: Path, ids: list[int]) -> np.ndarray:
    """Natural log-probabilities after each id, from the exact runtime."""
    from narrows.weak.registry import load_model

    model = load_model(path, threads=1)
    stream = model.open(ids[:1])
    rows = [model.logits(stream).astype(np.float64)]
    rows += [row.astype(np.float64) for row in model.extend(stream, ids[1:])]
    nats = np.stack(rows) * (np.log(2) / 65536)
    nats -= nats.max(-1, keepdims=True)
    return np.asarray(nats - np.log(np.exp(nats).sum(-1, keepdims=True)))


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_the_module_is_the_checkpoint_and_rounds_as_the_runtime(arch: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from narrows.training.tune import tuned_student
    from narrows.weak.pack import pack

    source = tiny_source(arch)
    pack(source, tmp_path / "x.narrows", name="x", threads=1)
    student = tuned_student(RECIPE, source).eval()
    ids = np.random.default_rng(7).integers(3, 400, 48).tolist()
    exact = runtime_logits(tmp_path / "x.narrows", ids)
    floating = torch_logits(student, ids)
    student.rounding.enabled = True
    student.rounding.refresh()
    rounded = torch_logits(student, ids)
    far, near = np.abs(floating - exact).mean(), np.abs(rounded - exact).mean()
    print(arch, far, near)
    assert far < 0.05
    assert near < 0.6 * far  # what is left: roundings that fall to the other side
