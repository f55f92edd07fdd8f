"""Private copies of what is to be signed: each file is read once, whatever happens to it then.

Publishing reads its files several times over: to hash them, to pack them again, to compare, to
load, to measure. Whoever can write where they lie could show each reading something else. So they
are copied first, each by one descriptor, into a folder that this user alone can enter; digests
are of the bytes that went into the copy, and only copies are read from then on. The folder lies
under TMPDIR, which must have the room.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from narrows.durable import copy_once
from narrows.errors import InputError
from narrows.homes import expanded
from narrows.models.registry import NAMES

CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.jinja")  # all that loading one can read
RUN_FILES = ("run.json", "base.json", "best.pt", "classes.npz")
MAX_FILES = 4096


class PrivateCopies:
    """Made by ``private_copies`` only. A path that is named twice is copied once. All methods
    raise InputError: a file that cannot be read or is no regular one, no room for the copy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[Path, tuple[Path, tuple[str, ...]]] = {}

    def file(self, path: Path) -> tuple[Path, str]:
        """A copy of a file, not of a symbolic link, and its SHA-256 (hex)."""
        copy, (digest,) = self._copied(path, None, follow_links=False)
        return copy, digest

    def checkpoint(self, path: Path) -> tuple[Path, tuple[str, ...]]:
        """A copy of a GGUF file or of a folder's files that belong to a checkpoint, and their
        digests. In a folder they may be links: caches of models are made of them."""
        return self._copied(path, CHECKPOINT_FILES, follow_links=path.is_dir())

    def run(self, path: Path) -> Path:
        """A copy of what packing a training run again reads."""
        return self._copied(path, RUN_FILES, follow_links=False)[0]

    def model(self, name: str) -> str:
        """A copy of the artifact or checkpoint that ``name`` is the path of; else the name."""
        path = expanded(name)
        if name in NAMES or not path.exists():
            return name
        return str(self._copied(path, CHECKPOINT_FILES, follow_links=True)[0])

    def _copied(
        self, path: Path, patterns: Sequence[str] | None, *, follow_links: bool
    ) -> tuple[Path, tuple[str, ...]]:
        known = Path(os.path.abspath(path)) if patterns is None else path.resolve()
        if known not in self._made:
            place = self._folder / str(len(self._made))
            copy = place / (known.name or "root")
            place.mkdir()
            if patterns is not None and path.is_dir():
                copy.mkdir()
                found = sorted({file for pattern in patterns for file in path.glob(pattern)})
                if len(found) > MAX_FILES:
                    raise InputError(f"{path} has {len(found)} files; {MAX_FILES} are read")
                pairs = [(file, copy / file.name) for file in found]
            else:
                pairs = [(path, copy)]
            digests = tuple(_copy(one, two, follow_links) for one, two in pairs)
            self._made[known] = copy, digests
        return self._made[known]


def _copy(source: Path, target: Path, follow_links: bool) -> str:
    try:
        with target.open("xb") as out:
            return copy_once(source, out, follow_links=follow_links)
    except OSError as error:
        raise InputError(
            f"cannot copy {source} aside: {error.strerror or error}", "set TMPDIR to where room is"
        ) from error


@contextlib.contextmanager
def private_copies() -> Iterator[PrivateCopies]:
    """Copies that are gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="narrows-publish-") as folder:
        yield PrivateCopies(Path(folder))
