"""A fine-tuning job: an existing small model learns a strong model's answers.

The folder holds the recipe's checkpoint and best weights (of what is learned, not of the
frozen base), ``base.json`` (digest of the base, so that a run never goes on from another one)
and the facts of the finished run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from narrows.errors import InputError
from narrows.models.checkpoint.source import SourceModel
from narrows.training.base import adapted, hf_model
from narrows.training.classes import all_classes
from narrows.training.job import write_facts, write_json
from narrows.training.loop import Progress, Training
from narrows.training.recipe import Recipe
from narrows.training.speech import Speech
from narrows.training.student import Student


def tune_job(
    recipe: Recipe,
    folder: Path,
    source: SourceModel,
    *,
    answers: Sequence[Path],
    on_progress: Callable[[Progress], None] = lambda progress: None,
    checkpoint_s: float = 120.0,
) -> float:
    """Fine-tune ``source`` in ``folder``, or go on with what is there; the best dev bits a
    token. InputError: the folder is of another base or recipe."""
    if recipe.max_tokens > source.config.context_length:
        raise InputError(
            f"max_tokens {recipe.max_tokens} is beyond the base's {source.config.context_length}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    _check_base(folder, source)
    data = Speech.of_source(source).data_of(recipe, shards=None, answers=answers)
    student = tuned_student(recipe, source)
    best = Training(student, data, recipe, folder).run(on_progress, checkpoint_s=checkpoint_s)
    write_facts(folder, recipe, answers)
    return best


def tuned_student(recipe: Recipe, source: SourceModel) -> Student:
    """The base as a student, with new low-rank updates from the recipe's seed."""
    if recipe.method not in ("lora", "full"):
        raise InputError(f"method {recipe.method} does not fine-tune", "lora or full")
    torch.manual_seed(recipe.seed)
    model = adapted(hf_model(source), method=recipe.method, rank=recipe.rank)
    return Student(model, all_classes(source.config.vocab_size), source.config)


def base_facts(source: SourceModel) -> dict[str, Any]:
    """What a base says of itself, with the digest of its tensors."""
    digest = hashlib.sha256()
    for name in source.tensors():
        digest.update(source.tensor(name).tobytes())
    return {**source.metadata, "tensors_sha256": digest.hexdigest()}


def _check_base(folder: Path, source: SourceModel) -> None:
    path, facts = folder / "base.json", base_facts(source)
    if not path.exists():
        write_json(path, facts)
    known = json.loads(path.read_text("utf-8"))
    if known["tensors_sha256"] != facts["tensors_sha256"]:
        raise InputError(f"{folder} holds a run from another base", "use another folder")
