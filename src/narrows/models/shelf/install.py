"""Into a watched folder: signature first, then the artifact, each appearing whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from narrows.durable import copy_once, read_once, replacing
from narrows.errors import ArtifactError, InputError
from narrows.models.artifact import Artifact
from narrows.models.shelf.signed import MAX_SIGNED_BYTES, signed_path


def install(file: Path, folder: Path, shown: bool = False) -> tuple[bytes, bool]:
    """Copy an artifact and its signature, if it has one; its digest and whether it has.
    ``shown``: who may look into the folder may read them, whatever the umask: an isolated enclave.

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
        signed = signature.exists()
        if signed:
            data = read_once(signature, MAX_SIGNED_BYTES, follow_links=True)
            with _placed(signed_path(target), shown) as out:
                out.write(data)
        with _placed(target, shown) as out:
            if copy_once(file, out, follow_links=True) != artifact.digest.hex():
                raise InputError(f"{file} changed while it was copied", "do it again")
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error
    except ArtifactError as error:
        raise InputError(f"{target} is damaged: {error.message}", "remove it") from error
    return artifact.digest, signed


@contextlib.contextmanager
def _placed(path: Path, shown: bool) -> Iterator[BinaryIO]:
    with replacing(path) as out:
        if shown:
            os.fchmod(out.fileno(), 0o644)
        yield out
