"""A recipe: everything that decides what a training run does, as a TOML file.

The same recipe, data and machine give the same weights, except where the length is in minutes:
a schedule by the clock takes as many steps as the machine manages.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from narrows.errors import InputError
from narrows.tomlfile import read_toml

METHODS = ("scratch", "lora", "full")
SHIPPED = ("default", "lora", "full")


@dataclass(frozen=True)
class StudentShape:
    """Sizes of a model from scratch."""

    d_model: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    d_ff: int = 512
    context: int = 1024
    rope_theta: float = 10000.0


@dataclass(frozen=True)
class Recipe:
    """``keep_tokens``: tokens with rows of their own. ``batch_tokens``: padded tokens of a
    step. ``epochs`` (times through the examples), ``minutes`` or ``steps``: the length, by the
    first of them that is not 0; the learning rate warms up for ``warmup_steps``
    and falls along a cosine to ``final_share`` of ``learning_rate`` (hidden matrices, under
    Muon) and ``embed_rate`` (the rest, under AdamW). ``text_until``: share of the run in which
    plain answer files take part beside the sampled ones. ``bf16``: autocast. ``max_prompt``,
    ``max_tokens``: ids of a prompt, and of prompt and answer together; a longer answer goes on in
    an example of its own.

    ``method``: ``scratch`` (a new model of ``student``'s sizes), ``lora`` (low-rank updates of
    ``rank``) or ``full``, which fine-tune a base. From the share ``rounded_from`` of the run
    on, fine-tuning's forward pass rounds as the runtime does (1: never)."""

    seed: int = 1
    keep_tokens: int = 16384
    dev_percent: float = 5.0
    dev_examples: int = 64
    batch_tokens: int = 4096
    max_prompt: int = 400
    max_tokens: int = 656
    prompt_weight: float = 0.1
    text_until: float = 0.5
    steps: int = 1000
    minutes: float = 0.0
    epochs: float = 0.0
    warmup_steps: int = 40
    learning_rate: float = 0.02
    embed_rate: float = 0.003
    final_share: float = 0.05
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    eval_steps: int = 50
    muon: bool = True
    bf16: bool = True
    method: str = "scratch"
    rank: int = 32
    rounded_from: float = 1.0
    student: StudentShape = field(default_factory=StudentShape)

    def share(self, step: int, elapsed_s: float, passes: float) -> float:
        """How much of the run is behind us, 0..1. ``passes``: times through the examples."""
        if self.epochs:
            return min(1.0, passes / self.epochs)
        done = elapsed_s / (60 * self.minutes) if self.minutes else step / self.steps
        return min(1.0, done)

    def rate(self, step: int, share: float) -> float:
        """What the learning rates are multiplied with."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        cosine = 0.5 * (1 + math.cos(math.pi * share))
        return warm * (self.final_share + (1 - self.final_share) * cosine)


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file; InputError lists every key that is unknown or of a wrong type."""
    file = read_toml(path)
    problems: list[str] = []
    data = dict(file.data)
    shape = data.pop("student", {})
    student = _fields(StudentShape, shape, ("student",), file.where, problems)
    values = _fields(Recipe, data, (), file.where, problems)
    if problems:
        raise InputError(f"{path.name} has mistakes", problems=tuple(problems))
    return Recipe(**values, student=StudentShape(**student))


def _fields(
    kind: Any, data: Any, prefix: tuple[str, ...], where: Any, problems: list[str]
) -> dict[str, Any]:
    known: dict[str, Any] = {
        f.name: f.default for f in dataclasses.fields(kind) if f.name != "student"
    }
    values: dict[str, Any] = {}
    for key, value in data.items() if isinstance(data, dict) else ():
        default = known.get(key)
        wanted = (int, float) if type(default) is float else (type(default),)
        if default is None or type(value) not in wanted:
            problems.append(f"{where((*prefix, key))}: {key} = {value!r:.40} is not understood")
        elif isinstance(value, str) and value not in METHODS:
            problems.append(f"{where((*prefix, key))}: {key} is none of {', '.join(METHODS)}")
        elif isinstance(value, int | float) and not 0 <= value < 1e9:
            problems.append(f"{where((*prefix, key))}: {key} = {value!r:.40} is out of range")
        else:
            values[key] = type(default)(value)
    return values


def find_recipe(name: str) -> Recipe:
    """A recipe of the package (``default``, ``lora``, ``full``) or in a file."""
    shipped = Path(__file__).parent / "recipes" / f"{name}.toml"
    return read_recipe(shipped if name in SHIPPED else Path(name))
