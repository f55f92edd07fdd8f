"""Into a watched folder: signature first, then the artifact, each appearing whole."""

from __future__ import annotations

import shutil
from pathlib import Path

from narrows.durable import replacing
from narrows.errors import ArtifactError, InputError
from narrows.models.artifact import Artifact
from narrows.models.shelf.signed import signed_path


def install(file: Path, folder: Path) -> tuple[bytes, bool]:
    """Copy an artifact and its signature, if it has one; its digest and whether it has.

    Raises ArtifactError (no artifact), InputError (the folder cannot be written, or holds
    another one of this name)."""
    artifact = Artifact.open(file)
    signature = signed_path(file)
    target = folder / file.name
    if target.suffix != ".narrows" or target.name.startswith("."):
        raise InputError(f"{file.name} would not be found there", "call it NAME.narrows")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        if target.exists() and Artifact.open(target).digest != artifact.digest:
            raise InputError(f"{target} is another model", "give the file another name")
        if signature.exists():
            _copy(signature, signed_path(target))
        _copy(file, target)
        Artifact.open(target, expect=artifact.digest)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error
    except ArtifactError as error:
        raise InputError(f"{target} is damaged: {error.message}", "remove it") from error
    return artifact.digest, signature.exists()


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as data, replacing(target) as file:
        shutil.copyfileobj(data, file, 1 << 20)
