"""Files that are there whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from narrows.durable import replacing, write_first
from narrows.errors import InputError


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
