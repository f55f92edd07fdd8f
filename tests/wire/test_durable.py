"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from narrows.durable import replacing, write_first, write_new
from narrows.errors import InputError
from narrows.ledger.keys import save_private
from narrows.wire.pins import make_identity


def _key(folder: Path) -> object:
    return save_private(folder / "a.key", Ed25519PrivateKey.generate())


def _identity(folder: Path) -> object:
    return make_identity(folder, "gate")


def test_of_several_first_ones_one_wins_and_all_agree(tmp_path: Path) -> None:
    path, seen, barrier = tmp_path / "secret", set[bytes](), threading.Barrier(8)

    def start(number: int) -> None:
        barrier.wait()
        write_first(path, bytes([number]) * 32, 0o600)
        seen.add(path.read_bytes())

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]


def test_a_file_can_be_looked_at_before_it_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "out"

    def look() -> None:
        with replacing(path, 0o600) as file:
            file.write(b"half")
            file.flush()
            assert Path(file.name).read_bytes() == b"half"
            assert Path(file.name).stat().st_mode & 0o777 == 0o600
            raise InputError("looked")

    with pytest.raises(InputError, match="looked"):
        look()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("make", [_key, _identity])
def test_a_new_key_has_a_durable_name(
    make: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its public half may be in a ledger a moment later: it must outlive a power cut by then."""
    synced, fsync = list[bool](), os.fsync

    def noted(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    make(tmp_path)
    assert synced[-2:] == [False, True], "the file, then its folder"


def test_what_is_there_is_not_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    write_new(path, b"first", 0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_new(path, b"second")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "link", b"second")
    assert path.read_bytes() == b"first"
    assert not (tmp_path / "elsewhere").exists()
