"""The artifact of a training run once more, from the run's folder alone."""

from __future__ import annotations

import json
from pathlib import Path

from narrows.errors import InputError
from narrows.training.job import pack_job
from narrows.training.recipe import Recipe, StudentShape


def rebuild_job(run: Path, out: Path, *, teacher: str) -> bytes:
    """Pack the best weights of ``run`` into ``out``; its SHA-256, which differs from the first
    artifact's where name or provenance do. InputError: no finished run."""
    try:
        plain = dict(json.loads((run / "run.json").read_text("utf-8"))["recipe"])
        recipe = Recipe(**(plain | {"student": StudentShape(**plain["student"])}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run} holds no finished run: {error!s:.100}") from error
    return pack_job(recipe, run, out, teacher=teacher, name="rebuilt", provenance={})
