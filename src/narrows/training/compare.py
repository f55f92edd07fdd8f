"""Does the packed artifact predict as well as the float model it was made from?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from narrows.models.api import TokenModel
from narrows.models.registry import load_model
from narrows.models.runtime.runtime import Runtime
from narrows.training.batches import collate
from narrows.training.corpus.examples import Example
from narrows.training.job import read_classes
from narrows.training.recipe import Recipe
from narrows.training.speech import Speech
from narrows.training.student import Student, new_student

_Q16_LN2 = np.log(2) / 65536  # logits are Q16 exponents of two


def exact_and_float_bits(
    recipe: Recipe,
    folder: Path,
    artifact: Path,
    *,
    teacher: str,
    shards: Path | None,
    answers: Sequence[Path] = (),
    limit: int = 0,
) -> tuple[float, float]:
    """Bits a token of the first ``limit`` dev examples (0: all), of the tokens as they were
    drawn: (exact runtime, float32). For a model from scratch."""
    data = Speech.of_artifact(teacher).data_of(recipe, shards=shards, answers=answers)
    dev = data.dev[:limit] if limit else data.dev
    student = new_student(recipe.student, read_classes(folder))
    best = torch.load(folder / "best.pt", map_location="cpu", weights_only=True)
    student.restore(best["model"])
    tokens = sum(len(e.answer) for e in dev)
    return exact_bits(load_model(artifact), dev) / tokens, float_bits(student, dev) / tokens


def exact_bits(model: TokenModel | Runtime, examples: Sequence[Example]) -> float:
    """Bits of all answers' tokens in the exact runtime."""
    bits = 0.0
    for example in examples:
        stream = model.open(example.prompt.tolist())
        rows = [model.logits(stream)]
        rows += list(model.extend(stream, example.answer[:-1].tolist()))
        model.close(stream)
        for row, token in zip(rows, example.answer, strict=True):
            nats = row.astype(np.float64) * _Q16_LN2
            top = nats.max()
            bits += float(top + np.log(np.exp(nats - top).sum()) - nats[token])
    return bits / float(np.log(2))


def float_bits(student: Student, examples: Sequence[Example]) -> float:
    """The same in float32, nothing rounded."""
    student.eval()
    if student.rounding is not None:
        student.rounding.enabled = False
    nats = 0.0
    with torch.no_grad():
        for example in examples:
            batch = collate([example], student.classes, prompt_weight=0.0, distil=False)
            nats += float(student(*(torch.from_numpy(x) for x in batch.arrays)).sum())
    return nats / float(np.log(2))
