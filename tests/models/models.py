"""Runtimes over tiny models, for the runtime's tests."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from models.tiny import LLAMA3_SCALING, tiny_source
from narrows.models.artifact import Artifact, write_artifact
from narrows.models.checkpoint.pack import pack
from narrows.models.checkpoint.source import SourceModel
from narrows.models.runtime.runtime import Runtime, load_runtime

VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama3": {"arch": "llama", "rope_scaling": LLAMA3_SCALING, "tied_embeddings": False},
    "qwen2": {"arch": "qwen2"},
    "qwen3": {"arch": "qwen3"},
    "odd": {"arch": "llama", "d_model": 36, "d_ff": 52, "n_heads": 3, "n_kv_heads": 1},
    "big-head": {"arch": "qwen3", "head_dim": 128, "n_heads": 2, "n_kv_heads": 2},
}


def source_of(variant: str) -> SourceModel:
    changes = dict(VARIANTS[variant])
    return tiny_source(changes.pop("arch", "llama"), **changes)


@functools.cache
def artifact_path(variant: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="narrows-test-"))
    path = folder / f"{variant}.narrows"
    pack(source_of(variant), path, name=variant, threads=1)
    return path


def runtime_of(variant: str, **options: Any) -> Runtime:
    options = {"threads": 1, "kv_bytes": 16 << 20} | options
    return load_runtime(Artifact.open(artifact_path(variant)), **options)


def rewritten(variant: str, folder: Path, header: dict[str, Any], **tensors: Any) -> Artifact:
    """The variant's artifact with other ``numerics`` entries or other tensors."""
    old = Artifact.open(artifact_path(variant))
    values = {name: old.tensor(name) for name in old.tensor_names} | tensors
    changed = dict(old.header)
    changed["numerics"] = dict(changed["numerics"]) | header
    changed.pop("conformance")
    path = folder / "rewritten.narrows"
    write_artifact(path, changed, values)
    return Artifact.open(path)
