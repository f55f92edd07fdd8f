"""A training job: a folder in which a model from scratch is trained, and the artifact made of it.

The folder holds ``classes.npz`` (fixed by the first start, so that a resumed run has the same
rows), the recipe, the checkpoint, the best weights, and the digests of the data.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from narrows.durable import replacing, write_whole
from narrows.errors import InputError
from narrows.models.checkpoint.pack import pack
from narrows.models.shelf.origin import named_digests
from narrows.training.classes import TokenClasses, common_classes
from narrows.training.data import TrainingData
from narrows.training.loop import Progress, Training
from narrows.training.recipe import Recipe, StudentShape
from narrows.training.speech import Speech
from narrows.training.student import new_student, to_source


def train_job(
    recipe: Recipe,
    folder: Path,
    *,
    teacher: str,
    shards: Path | None,
    answers: Sequence[Path] = (),
    on_progress: Callable[[Progress], None] = lambda progress: None,
    checkpoint_s: float = 120.0,
) -> float:
    """Train in ``folder``, or go on with what is there; the best dev bits a token. Only the
    tokenizer and the chat template of ``teacher`` are used, none of its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    data = Speech.of_artifact(teacher).data_of(recipe, shards=shards, answers=answers)
    classes = _classes(folder, data, recipe)
    student = new_student(recipe.student, classes)
    best = Training(student, data, recipe, folder).run(on_progress, checkpoint_s=checkpoint_s)
    files = [*sorted(shards.glob("[!.]*.npz"))] if shards else []
    write_facts(folder, recipe, [*files, *answers])
    return best


def pack_job(
    recipe: Recipe, folder: Path, out: Path, *, teacher: str, name: str, provenance: dict[str, Any]
) -> bytes:
    """The best weights of a job as an artifact; its SHA-256."""
    best, facts = read_best(folder)
    speech = Speech.of_artifact(teacher)
    source = to_source(best["model"], recipe.student, read_classes(folder), speech.data)
    facts |= {"tokenizer_of": speech.tokenizer.digest.hex()}
    return pack(source, out, name=name, provenance=facts | provenance)


def write_facts(folder: Path, recipe: Recipe, files: Sequence[Path]) -> None:
    """``run.json``: what a finished run was made of."""
    digests = named_digests(files)
    facts = {"recipe": asdict(recipe), "data_sha256": digests, "versions": _versions()}
    write_json(folder / "run.json", facts)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a file whole; every process of a run may write it at once."""
    write_whole(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_best(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The best weights of a finished run, and its facts with their figures."""
    try:
        best = torch.load(folder / "best.pt", map_location="cpu", weights_only=True)
        facts = json.loads((folder / "run.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no finished run: {error!s:.100}") from error
    keys = ("dev_bits", "dev_bits_per_byte", "step", "elapsed_s")
    return best, facts | {"figures": {key: round(float(best[key]), 4) for key in keys}}


def read_recipe_of(run: Path) -> Recipe:
    """The recipe of a finished run. InputError: there is none."""
    try:
        plain = dict(json.loads((run / "run.json").read_text("utf-8"))["recipe"])
        return Recipe(**(plain | {"student": StudentShape(**plain["student"])}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run} holds no finished run: {error!s:.100}") from error


def _classes(folder: Path, data: TrainingData, recipe: Recipe) -> TokenClasses:
    path = folder / "classes.npz"
    if not path.exists():
        made = common_classes(data.mass(), recipe.keep_tokens)
        with replacing(path) as file:
            np.savez(file, of_token=made.of_token, size=made.size, rare=made.rare)
    return read_classes(folder)


def read_classes(folder: Path) -> TokenClasses:
    """The rows that a run has settled on."""
    with np.load(folder / "classes.npz", allow_pickle=False) as file:
        return TokenClasses(file["of_token"], int(file["size"]), int(file["rare"]))


def _versions() -> dict[str, str]:
    names = ("narrows", "numpy", "torch", "transformers", "accelerate", "peft")
    return {n: importlib.metadata.version(n) for n in names} | {"python": platform.python_version()}
