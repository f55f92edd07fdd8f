"""A training job: a folder in which a model from scratch is trained, and the artifact made of it.

The folder holds ``classes.npz`` (fixed by the first start, so that a resumed run has the same
rows), the recipe, the checkpoint, the best weights, and the digests of the data.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from narrows.errors import ArtifactError, InputError
from narrows.training.classes import TokenClasses, common_classes
from narrows.training.data import TrainingData
from narrows.training.examples import Example, read_answers
from narrows.training.loop import Progress, Training
from narrows.training.recipe import Recipe
from narrows.training.student import new_student, to_source
from narrows.weak.artifact import Artifact
from narrows.weak.pack import pack
from narrows.weak.registry import resolve
from narrows.weak.source import TokenizerData
from narrows.weak.tokenizer import TOKENIZER_TENSOR, BpeTokenizer


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
    data = job_data(recipe, teacher=teacher, shards=shards, answers=answers)
    classes = _classes(folder, data, recipe)
    student = new_student(recipe.student, classes)
    best = Training(student, classes, data, recipe, folder).run(
        on_progress, checkpoint_s=checkpoint_s
    )
    files = [*sorted(shards.glob("[!.]*.npz"))] if shards else []
    digests = {path.name: _sha256(path) for path in [*files, *answers]}
    facts = {"recipe": asdict(recipe), "data_sha256": digests, "versions": _versions()}
    (folder / "run.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", "utf-8")
    return best


def job_data(
    recipe: Recipe, *, teacher: str, shards: Path | None, answers: Sequence[Path]
) -> TrainingData:
    """The examples of a job in the teacher's tokens."""
    artifact = Artifact.open(resolve(teacher))
    tokenizer = BpeTokenizer.from_artifact(artifact)
    text: list[Example] = []
    for path in answers:
        text += read_answers(path, _chat(artifact, tokenizer), tokenizer, _end(artifact))
    return TrainingData(
        recipe,
        shards=shards,
        text=text,
        vocab=tokenizer.vocab_size,
        byte_length=lambda ids: sum(len(tokenizer.token_bytes(i)) for i in ids),
    )


def pack_job(
    recipe: Recipe, folder: Path, out: Path, *, teacher: str, name: str, provenance: dict[str, Any]
) -> bytes:
    """The best weights of a job as an artifact; its SHA-256."""
    try:
        best = torch.load(folder / "best.pt", map_location="cpu", weights_only=True)
        facts = json.loads((folder / "run.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no finished run: {error!s:.100}") from error
    artifact = Artifact.open(resolve(teacher))
    chat = _header_chat(artifact)
    data = TokenizerData(
        artifact.tensor(TOKENIZER_TENSOR).tobytes().decode("utf-8"),
        tuple(cast(Any, artifact.header["eos_ids"])),
        chat["template"],
        chat["bos_token"],
        chat["eos_token"],
    )
    source = to_source(best["model"], recipe.student, read_classes(folder), data)
    figures = {
        key: round(float(best[key]), 4)
        for key in ("dev_bits", "dev_bits_per_byte", "step", "elapsed_s")
    }
    facts |= {"figures": figures, "tokenizer_of": artifact.digest.hex()}
    return pack(source, out, name=name, provenance=facts | provenance)


def _classes(folder: Path, data: TrainingData, recipe: Recipe) -> TokenClasses:
    path = folder / "classes.npz"
    if not path.exists():
        made = common_classes(data.mass(), recipe.keep_tokens)
        draft = folder / ".classes.draft.npz"
        np.savez(draft, of_token=made.of_token, size=made.size, rare=made.rare)
        draft.replace(path)
    return read_classes(folder)


def read_classes(folder: Path) -> TokenClasses:
    """The rows that a run has settled on."""
    with np.load(folder / "classes.npz", allow_pickle=False) as file:
        return TokenClasses(file["of_token"], int(file["size"]), int(file["rare"]))


def _header_chat(artifact: Artifact) -> dict[str, str]:
    chat = artifact.header.get("chat")
    if not isinstance(chat, dict):
        raise ArtifactError(f"{artifact.path.name} has no chat template")
    return chat


def _chat(artifact: Artifact, tokenizer: BpeTokenizer) -> Any:
    from narrows.weak.chat import ChatRenderer

    renderer = ChatRenderer.from_artifact(artifact, tokenizer)

    class Chat:
        render_chat = staticmethod(renderer.render)

    return Chat()


def _end(artifact: Artifact) -> int:
    """The token that ends an answer in this model's chats."""
    tokenizer = BpeTokenizer.from_artifact(artifact)
    text = _header_chat(artifact)["eos_token"].encode()
    for token in sorted(tokenizer.eos_ids):
        if tokenizer.token_bytes(token) == text:
            return token
    return max(tokenizer.eos_ids)


def _versions() -> dict[str, str]:
    names = ("narrows", "numpy", "torch", "transformers", "accelerate")
    return {n: importlib.metadata.version(n) for n in names} | {"python": platform.python_version()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
