"""Where was an artifact made? Shown by files outside, never by what it says of itself.

Law 6: weak models flow inward. A hostile enclave writes any provenance it likes into an
artifact, so three things alone count:
- **a run**: the folder of a training run outside, whose weights pack to the same tensors, and
  whose data the operator has (digests compared with the files themselves);
- **a source**: a checkpoint outside that packs to the same tensors;
- **a receipt**: its bytes came through the gate, where each one was charged (``edge/receive``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from narrows.durable import open_once
from narrows.errors import ArtifactError, InputError
from narrows.models.artifact import Artifact, canonical_json

# What an artifact says of itself, and nothing computes with.
_SAYINGS = ("name", "provenance")


def same_model(artifact: Artifact, rebuilt: Artifact) -> None:
    """Every tensor and everything in the header that is computed with is the same. Raises
    ArtifactError, naming what differs."""
    if artifact.tensor_names != rebuilt.tensor_names:
        raise _differs(artifact, "the list of tensors")
    for name in artifact.tensor_names:
        one, two = artifact.tensor(name), rebuilt.tensor(name)
        if one.dtype != two.dtype or one.shape != two.shape or one.tobytes() != two.tobytes():
            raise _differs(artifact, f"tensor {name}")
    for part in sorted({*artifact.header, *rebuilt.header} - {*_SAYINGS}):
        if canonical_json(artifact.header.get(part)) != canonical_json(rebuilt.header.get(part)):
            raise _differs(artifact, part)


def _differs(artifact: Artifact, what: str) -> ArtifactError:
    return ArtifactError(
        f"{artifact.path.name} was not made from these files: {what} differs",
        "name the run or checkpoint that it was really made from; if it was made in the "
        "enclave, it is an export: see 'narrows weak export --help'",
    )


def find_data(
    wanted: Mapping[str, str],
    places: Iterable[Path],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """The digests (hex) of ``wanted`` (name to digest), each of them seen in a file of
    ``places`` (files, or folders with files). Raises InputError for all that are not."""
    files: list[Path] = []
    for place in places:
        files += sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
    present = set()
    for count, path in enumerate(files, 1):
        present.add(sha256_of(path))
        progress(count, len(files))
    missing = tuple(
        f"{name}: no file here has SHA-256 {digest}"
        for name, digest in sorted(wanted.items())
        if digest not in present
    )
    if missing:
        raise InputError(
            "the run learned from data that is not in your data folders",
            "name the folder with --data; data that no one outside has is no data from outside",
            missing,
        )
    return sorted(set(wanted.values()))


def claimed_data(record: Mapping[str, Any]) -> dict[str, str]:
    """Name to digest of the data of a run, as the run's own folder says. InputError."""
    digests = record.get("data_sha256")
    if not isinstance(digests, dict) or not digests:
        raise InputError("the run does not say what it learned from", "train it to its end")
    if not all(isinstance(value, str) and len(value) == 64 for value in digests.values()):
        raise InputError("the run's data digests are malformed")
    return {str(name): str(value) for name, value in digests.items()}


def named_digests(files: Iterable[Path]) -> dict[str, str]:
    """Name to digest, each file's own: those whose name another one has are counted."""
    result: dict[str, str] = {}
    for path in files:
        name, count = path.name, 1
        while name in result:
            count += 1
            name = f"{path.name} ({count})"
        result[name] = sha256_of(path)
    return result


def sha256_of(path: Path) -> str:
    """Hex. Raises InputError."""
    try:
        with open_once(path, follow_links=True) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
