"""A scorer by its kind and the name of its model."""

from __future__ import annotations

from narrows.audit.scorer import RuntimeScorer, Scorer
from narrows.errors import InputError
from narrows.models.registry import load_model

KINDS = ("runtime", "torch")


def scorer_named(kind: str, model: str) -> Scorer:
    """``runtime``: an artifact in the exact runtime; ``torch``: a checkpoint through
    transformers, in float32. InputError: no such kind or model."""
    if kind == "runtime":
        return RuntimeScorer(load_model(model))
    if kind == "torch":
        from narrows.audit.torch_scorer import load_torch

        return load_torch(model)
    raise InputError(f"no scorer {kind!r}", f"one of {', '.join(KINDS)}")
