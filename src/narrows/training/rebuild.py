"""The artifact of a training run once more, from the run's folder alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from narrows.errors import InputError
from narrows.training.base import load_base, merged_tensor
from narrows.training.job import pack_job, read_best
from narrows.training.recipe import Recipe, StudentShape
from narrows.training.tune import tuned_student
from narrows.weak.pack import pack


def rebuild_job(run: Path, out: Path, *, teacher: str, base: str | None) -> bytes:
    """Pack the best weights of ``run`` into ``out``, merged into ``base`` where it is a
    fine-tuning; its SHA-256, which differs from the first artifact's where name or provenance
    do. InputError: no finished run, or no base for one that has one."""
    recipe = _recipe(run)
    if recipe.method == "scratch":
        return pack_job(recipe, run, out, teacher=teacher, name="rebuilt", provenance={})
    if base is None:
        raise InputError(f"{run} fine-tuned a base", "name it with --base")
    source = load_base(base)
    best, _ = read_best(run)
    student = tuned_student(recipe, source)
    student.restore(best["model"])
    merged = dataclasses.replace(source, loader=lambda name: merged_tensor(student.inner, name))
    return pack(merged, out, name="rebuilt")


def _recipe(run: Path) -> Recipe:
    try:
        plain = dict(json.loads((run / "run.json").read_text("utf-8"))["recipe"])
        return Recipe(**(plain | {"student": StudentShape(**plain["student"])}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run} holds no finished run: {error!s:.100}") from error
