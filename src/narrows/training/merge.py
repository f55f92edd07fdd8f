"""What fine-tunings of one base end in: the weights of one run, or the mean of several.

The mean of the weights of several runs from one base (a "model soup", Wortsman et al. 2022,
arXiv 2203.05482) is one model, as large and as fast as each of them, and mostly imitates better
than the best: what the runs learned in common stays, what each took from its own order, rate and
method averages out. The runs need no communication and may be made anywhere, one after another.

Invariants
- The result is a function of the base's tensors and the runs' best weights, in their order.
- Figures are of prompts that none of the runs trained on: which prompts are held out depends on
  a prompt's hash and ``dev_percent`` alone, so the smallest ``dev_percent`` holds for all.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.errors import InputError
from narrows.models.checkpoint.pack import Progress, pack
from narrows.models.checkpoint.source import SourceModel
from narrows.models.runtime.runtime import Runtime
from narrows.training.base import merged_tensor
from narrows.training.compare import exact_bits, float_bits
from narrows.training.corpus.examples import Example
from narrows.training.job import read_best, read_recipe_of
from narrows.training.recipe import Recipe
from narrows.training.speech import Speech
from narrows.training.tune import base_facts, tuned_student


@dataclass(frozen=True)
class Tuned:
    """An artifact's SHA-256, and bits a held-out token: of the weights before and after
    packing, and, where several runs were averaged, of each run's own (float32)."""

    digest: bytes
    float_bits: float
    packed_bits: float
    run_bits: tuple[float, ...] = ()


def merged(
    source: SourceModel,
    runs: Sequence[Path],
    look: Callable[[SourceModel], None] = lambda model: None,
) -> SourceModel:
    """The base with the mean of the runs' best weights in its place, in float32. ``look`` gets
    the model of each run, one at a time: memory does not grow with the number of runs.

    InputError: a folder without a finished fine-tuning, of another base, or named twice."""
    if not runs:
        raise InputError("there is no run to merge")
    if len({run.resolve() for run in runs}) < len(runs):
        raise InputError("a run is named twice", "name each once: all count alike")
    known = base_facts(source)["tensors_sha256"]
    total: dict[str, NDArray[np.float32]] = {}
    facts = []
    for run in runs:
        model = _of_run(source, run, known)
        look(model)
        facts.append(model.metadata)
        for name in source.tensors():
            value = model.tensor(name)
            total[name] = total[name] + value if name in total else value
    share = np.float32(len(runs))
    return dataclasses.replace(
        source,
        loader=lambda name: total[name] / share,
        metadata=facts[0] if len(facts) == 1 else {"mean_of": facts},
    )


def _of_run(source: SourceModel, run: Path, known: str) -> SourceModel:
    """The base with a run's best weights in its place, and its facts."""
    recipe = read_recipe_of(run)
    if recipe.method == "scratch":
        raise InputError(f"{run} is no fine-tuning", "the mean is of runs from one base")
    if _base(run).get("tensors_sha256") != known:
        raise InputError(f"{run} is of another base", "give the base that it was trained from")
    best, facts = read_best(run)
    student = tuned_student(recipe, source)
    student.restore(best.pop("model"))
    return dataclasses.replace(
        source, loader=lambda name: merged_tensor(student.inner, name), metadata=facts
    )


def pack_runs(
    runs: Sequence[Path],
    out: Path,
    source: SourceModel,
    *,
    name: str,
    answers: Sequence[Path],
    provenance: dict[str, Any],
    progress: Progress = lambda done, total: None,
) -> Tuned:
    """Merge, pack, and measure both on the held-out part of ``answers``. ``progress`` counts
    models that have been measured."""
    recipes = [read_recipe_of(run) for run in runs]
    recipe = dataclasses.replace(recipes[0], dev_percent=min(r.dev_percent for r in recipes))
    dev = Speech.of_source(source).data_of(recipe, shards=None, answers=answers).dev
    tokens = sum(len(example.answer) for example in dev)
    each: list[float] = []

    def look(model: SourceModel) -> None:
        if len(runs) > 1:
            each.append(_float_bits(recipe, model, dev) / tokens)
            progress(len(each), len(runs) + 2)

    model = merged(source, runs, look)
    bits = {"float32": _float_bits(recipe, model, dev) / tokens}
    progress(len(each) + 1, len(each) + 2)

    def measure(packed: Runtime) -> dict[str, Any]:
        bits["packed"] = exact_bits(packed, dev) / tokens
        rounded = {key: round(value, 5) for key, value in bits.items()}
        return {"dev_bits_a_token": rounded}

    facts = {"base": _base(runs[0])} | provenance
    digest = pack(model, out, name=name, provenance=facts, measure=measure)
    return Tuned(digest, bits["float32"], bits["packed"], tuple(each))


def _float_bits(recipe: Recipe, model: SourceModel, dev: Sequence[Example]) -> float:
    student = tuned_student(dataclasses.replace(recipe, method="full"), model)
    return float_bits(student, dev)


def _base(run: Path) -> dict[str, Any]:
    try:
        facts = json.loads((run / "base.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{run} holds no fine-tuning: {error!s:.100}") from error
    return facts if isinstance(facts, dict) else {}
