"""The artifact of training runs once more, from the runs' folders alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from narrows.errors import InputError
from narrows.models.checkpoint.pack import pack
from narrows.training.base import load_base
from narrows.training.job import pack_job, read_recipe_of
from narrows.training.merge import merged


def rebuild_job(runs: Sequence[Path], out: Path, *, teacher: str, base: str | None) -> bytes:
    """Pack the best weights of a run, or the mean of several fine-tunings', into ``out``, merged
    into ``base`` where it is a fine-tuning; its SHA-256, which differs from the first
    artifact's where name or provenance do. InputError: no finished run, runs that do not go
    together, or no base for one that has one."""
    recipe = read_recipe_of(runs[0])
    if recipe.method == "scratch":
        if len(runs) > 1:
            raise InputError("models from scratch have no mean", "name one run")
        return pack_job(recipe, runs[0], out, teacher=teacher, name="rebuilt", provenance={})
    if base is None:
        raise InputError(f"{runs[0]} fine-tuned a base", "name it with --base")
    return pack(merged(load_base(base), runs), out, name="rebuilt")
