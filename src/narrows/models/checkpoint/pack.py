"""From a float32 checkpoint to an artifact file.

Header keys: ``name``, ``config`` (sizes, for people), ``numerics`` (sizes and constants, for
the runtime), ``eos_ids``, ``chat`` (template, bos_token, eos_token), ``provenance`` (free),
``conformance`` (hex digest of the distributions that the importer computed). The tokenizer
is a tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from narrows.errors import ArtifactError
from narrows.models.artifact import Artifact, write_artifact
from narrows.models.checkpoint.source import SourceModel
from narrows.models.text.chat import ChatRenderer
from narrows.models.text.tokenizer import TOKENIZER_TENSOR, BpeTokenizer

if TYPE_CHECKING:
    from narrows.models.runtime.runtime import Runtime

Progress = Callable[[int, int], None]  # tensors read, tensors in all
Measure = Callable[["Runtime"], Mapping[str, Any]]


def pack(
    source: SourceModel,
    path: Path,
    *,
    name: str,
    provenance: Mapping[str, Any] | None = None,
    progress: Progress = lambda done, total: None,
    threads: int = 0,
    measure: Measure = lambda model: {},
) -> bytes:
    """Quantise, measure the conformance digest, write. Returns the artifact's SHA-256.
    ``measure`` gets the packed model; what it finds joins the provenance.

    The same checkpoint gives the same bytes. A draft without digest lies next to ``path``
    while the runtime computes it; a kill leaves at most that draft. ArtifactError: the
    checkpoint, its tokenizer or its template cannot be used.
    """
    from narrows.models.checkpoint.quantize import quantize
    from narrows.models.runtime.runtime import load_runtime

    data = source.tokenizer
    tokenizer = BpeTokenizer(
        data.json_text, vocab_size=source.config.vocab_size, eos_ids=data.eos_ids
    )
    chat = {
        "template": data.chat_template,
        "bos_token": data.bos_token,
        "eos_token": data.eos_token,
    }
    renderer = ChatRenderer(
        data.chat_template, tokenizer, bos_token=data.bos_token, eos_token=data.eos_token
    )
    renderer.rehearse()  # a template that can never render is refused here, not at a request
    if ordinary := set(data.eos_ids) - tokenizer.special_ids:
        said = tokenizer.token_bytes(min(ordinary))
        raise ArtifactError(f"end token {min(ordinary)} is also the ordinary text {said!r:.40}")
    part, tensors = quantize(_counted(source, progress))
    header = dict(part) | {
        "name": name,
        "config": dataclasses.asdict(source.config),
        "eos_ids": sorted(data.eos_ids),
        "chat": chat,
        "provenance": dict(source.metadata) | dict(provenance or {}),
    }
    text = np.frombuffer(data.json_text.encode("utf-8"), np.uint8)
    tensors = {**tensors, TOKENIZER_TENSOR: text}
    draft = path.with_name(f".{path.name}.draft")
    try:
        write_artifact(draft, header, tensors)
        model = load_runtime(Artifact.open(draft), threads=threads)
        header["conformance"] = model.numerics.hex()
        header["provenance"] |= measure(model)
        return write_artifact(path, header, tensors)
    finally:
        draft.unlink(missing_ok=True)


def _counted(source: SourceModel, progress: Progress) -> SourceModel:
    """The same checkpoint, telling ``progress`` of each tensor that is read the first time."""
    total = len(source.tensors())
    seen: set[str] = set()

    def load(name: str) -> NDArray[np.float32]:
        seen.add(name)
        progress(len(seen), total)
        return source.loader(name)

    return dataclasses.replace(source, loader=load)
