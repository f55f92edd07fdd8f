"""The engine that a name stands for, over an artifact's tensors."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from narrows.errors import ArtifactError, InputError, missing_extra
from narrows.models.engines import engine_problems
from narrows.models.runtime.engine import Engine
from narrows.models.runtime.numerics import shape_from_header

if TYPE_CHECKING:
    from narrows.models.artifact import Artifact

log = logging.getLogger("narrows.weak")


def build_engine(
    artifact: Artifact, threads: int, kv_bytes: int, backend: str
) -> tuple[Engine, int]:
    """The engine that ``backend`` names (``models/engines.py``), and its pages. InputError:
    impossible limits, no such engine or device; ArtifactError: malformed, or inexact here."""
    if problems := engine_problems(backend):
        raise InputError(problems[0])
    if not 0 <= threads <= 256:
        raise InputError(f"{threads} threads; 1 to 256, or 0 for every processor")
    shape = shape_from_header(artifact.header)
    tensors = {name: artifact.tensor(name) for name in artifact.tensor_names}
    from narrows.models.runtime.fast import FastEngine, page_bytes
    from narrows.models.runtime.matmul import probe

    pages = kv_bytes // page_bytes(shape)
    if pages < 2:
        raise InputError(f"kv_bytes is {kv_bytes}; a page has {page_bytes(shape)} bytes")
    threads = threads or min(16, len(os.sched_getaffinity(0)))
    kind, _, device = backend.partition(":")
    if kind == "torch":
        if artifact.header.get("conformance") is None:
            raise ArtifactError(
                f"{artifact.path.name} has no conformance digest to hold torch to",
                "import the model again, or use another engine",
            )
        try:
            from narrows.models.device.load import torch_engine
        except ModuleNotFoundError as error:
            raise missing_extra(f"engine {backend!r} needs {error.name}", "torch") from error
        return torch_engine(shape, tensors, pages, device, threads), pages
    if kind == "auto" and not probe():
        log.warning("byte products are not exact on this processor: the slow reference runs")
        kind = "reference"
    if kind == "reference":
        from narrows.models.runtime.reference import ReferenceEngine

        return ReferenceEngine(shape, tensors, pages), pages
    return FastEngine(shape, tensors, pages, threads), pages
