"""From an artifact and what shows its origin to a signed manifest beside it.

Everything here reads its files several times: give it ``private_copies``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narrows.errors import InputError
from narrows.models.artifact import Artifact
from narrows.models.shelf.origin import claimed_data, find_data, same_model
from narrows.models.shelf.signed import Figures, Manifest

Progress = Callable[[int, int], None]
Rebuild = Callable[[Path], object]  # writes the artifact to this path


@dataclass(frozen=True)
class Origin:
    """``kind`` and ``evidence`` of the manifest, and the digests of what it learned from."""

    kind: str
    evidence: str
    data: tuple[str, ...] = ()


def from_runs(
    artifact: Artifact,
    runs: Sequence[Path],
    rebuild: Rebuild,
    data: Sequence[Path],
    progress: Progress,
) -> Origin:
    """Trained outside, in one run or as the mean of several: data first (cheap), then the runs'
    weights are packed again. Raises InputError, ArtifactError."""
    wanted = {
        f"{run}: {name}" if len(runs) > 1 else name: digest
        for run in runs
        for name, digest in claimed_data(_record(run)).items()
    }
    digests = tuple(find_data(wanted, data, progress))
    _compare(artifact, rebuild)
    what = "a run" if len(runs) == 1 else f"the mean of {len(runs)} runs"
    return Origin("outside", f"packed again from {what} over {len(digests)} files", digests)


def _record(run: Path) -> dict[str, Any]:
    try:
        record = json.loads((run / "run.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{run} holds no finished run: {error!s:.100}") from error
    if not isinstance(record, dict):
        raise InputError(f"{run}/run.json is malformed")
    return record


def from_source(artifact: Artifact, digests: Sequence[str], rebuild: Rebuild) -> Origin:
    """Imported outside: the checkpoint (files with ``digests``) is packed again."""
    _compare(artifact, rebuild)
    return Origin("outside", "packed again from a checkpoint", tuple(sorted(set(digests))))


def _compare(artifact: Artifact, rebuild: Rebuild) -> None:
    with tempfile.TemporaryDirectory(prefix="narrows-publish-") as folder:
        path = Path(folder) / "rebuilt.narrows"
        rebuild(path)
        same_model(artifact, Artifact.open(path))


def manifest_of(
    artifact: Artifact, origin: Origin, *, licence: str, figures: Figures, published_s: int
) -> Manifest:
    """What is to be signed. The model is loaded: this machine must compute its conformance
    digest. Raises ArtifactError, InputError."""
    from narrows.models.runtime.runtime import NUMERICS_VERSION, load_runtime

    if not isinstance(artifact.header.get("conformance"), str):
        raise InputError(f"{artifact.path.name} has no conformance digest", "import it again")
    model = load_runtime(artifact)
    return Manifest(
        sha256=artifact.digest.hex(),
        size_bytes=artifact.size_bytes,
        name=model.name,
        conformance=model.numerics.hex(),
        numerics_version=NUMERICS_VERSION,
        origin=origin.kind,
        evidence=origin.evidence,
        licence=licence,
        published_s=published_s,
        data=origin.data,
        figures=figures,
    )
