"""Attack: whoever can write where an artifact or its checkpoint lies changes it while an operator
publishes. Signed is what was compared, or nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cli.here import exit_code
from models.test_hf import write_folder
from models.tiny import tiny_source
from narrows.durable import replacing
from narrows.errors import ArtifactError, InputError
from narrows.ledger.keys import public_of, save_private
from narrows.models.artifact import Artifact, write_artifact
from narrows.models.checkpoint.pack import pack
from narrows.models.registry import load_source
from narrows.models.shelf.copies import private_copies
from narrows.models.shelf.install import install
from narrows.models.shelf.signed import read_signed, signed_path
from swaps import before_opening

WEIGHTS = "model-0.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints and their artifacts, of the same sizes: ``honest`` and ``evil``."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("honest", "evil"):
        (folder / name).mkdir()
        write_folder(folder / name, tiny_source())
    weights = folder / "evil" / WEIGHTS
    data = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    values = np.frombuffer(data, "<f4", offset=start)
    values *= -1  # writable: a view of the bytearray
    weights.write_bytes(data)
    for name in ("honest", "evil"):
        pack(load_source(str(folder / name)), folder / f"{name}.narrows", name="x", threads=1)
    sizes = {(folder / f"{name}.narrows").stat().st_size for name in ("honest", "evil")}
    assert len(sizes) == 1
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    save_private(tmp_path / "alice.key", Ed25519PrivateKey.generate())
    shutil.copytree(made / "honest", tmp_path / "checkpoint")
    return tmp_path


def _publish(place: Path) -> int:
    words = ("--key", str(place / "alice.key"), "--source", str(place / "checkpoint"))
    return exit_code("weak", "publish", place / "x.narrows", *words, "--state", place)


def _operator(place: Path) -> bytes:
    from narrows.ledger.keys import load_private

    return public_of(load_private(place / "alice.key"))


@pytest.mark.parametrize("where", ["config.json", WEIGHTS])
def test_an_artifact_that_is_rewritten_in_place_is_not_signed(
    where: str, made: Path, place: Path
) -> None:
    """The evil one is hashed; the honest one would be compared, through the same mapping. One
    weight differs, as in a model that carries something out where nobody computes."""
    artifact, honest = place / "x.narrows", Artifact.open(made / "honest.narrows")
    tensors = {name: honest.tensor(name).copy() for name in honest.tensor_names}
    next(one for one in tensors.values() if one.dtype == np.int8).reshape(-1)[5] += 1
    write_artifact(artifact, honest.header, tensors)

    def rewrite() -> None:
        with artifact.open("r+b") as file:
            file.write((made / "honest.narrows").read_bytes())

    with before_opening(place / "checkpoint" / where, 1, rewrite):
        assert _publish(place) == 3
    assert not signed_path(artifact).exists()


@pytest.mark.parametrize("opening", range(1, 5))
def test_the_digests_are_of_the_files_that_were_packed(
    opening: int, made: Path, place: Path
) -> None:
    """Hashed would be the honest checkpoint, packed the evil one."""
    artifact, weights = place / "x.narrows", place / "checkpoint" / WEIGHTS
    shutil.copy(made / "evil.narrows", artifact)
    shutil.copy(made / "evil" / WEIGHTS, place / "other")
    with before_opening(weights, opening, lambda: os.replace(place / "other", weights)):
        code = _publish(place)
    if code:
        assert not signed_path(artifact).exists()
        return
    evil = hashlib.sha256((made / "evil" / WEIGHTS).read_bytes()).hexdigest()
    assert evil in read_signed(artifact, [_operator(place)]).data


def test_a_copy_is_private_read_once_and_gone_afterwards(place: Path) -> None:
    with private_copies() as copies:
        copy, digests = copies.checkpoint(place / "checkpoint")
        assert copy.parent.parent.stat().st_mode & 0o777 == 0o700
        assert sorted(digests) == sorted(
            hashlib.sha256(path.read_bytes()).hexdigest() for path in copy.iterdir()
        )
        assert copies.checkpoint(place / "checkpoint") == (copy, digests)
        assert copies.model("smollm2-135m") == "smollm2-135m"
    assert not copy.exists()


def test_no_fifo_or_link_is_published(made: Path, place: Path) -> None:
    artifact = place / "x.narrows"
    os.mkfifo(artifact)
    assert _publish(place) == 2
    with pytest.raises(ArtifactError, match="no regular file"):
        Artifact.open(artifact)
    artifact.unlink()
    artifact.symlink_to(made / "honest.narrows")
    assert _publish(place) == 2
    artifact.unlink()
    shutil.copy(made / "honest.narrows", artifact)
    os.mkfifo(signed_path(artifact))
    with pytest.raises(ArtifactError, match="no regular file"):
        read_signed(artifact, [])
    assert _publish(place) == 2


def test_what_changes_while_it_is_installed_does_not_appear(made: Path, place: Path) -> None:
    artifact, folder = place / "x.narrows", place / "watched"
    shutil.copy(made / "honest.narrows", artifact)
    shutil.copy(made / "evil.narrows", place / "other")
    with (
        before_opening(artifact, 2, lambda: os.replace(place / "other", artifact)),
        pytest.raises(InputError, match="changed while"),
    ):
        install(artifact, folder)
    assert not list(folder.iterdir())


def test_no_link_leads_a_file_elsewhere(tmp_path: Path) -> None:
    """The name that files are written aside under used to be known beforehand."""
    target, victim = tmp_path / "x.narrows.signed", tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f".{target.name}.{os.getpid()}.tmp").symlink_to(victim)
    with replacing(target) as file:
        file.write(b"new")
    assert (target.read_bytes(), victim.read_text()) == (b"new", "precious")
