"""The spool: what was written is read, and nothing else; bounded, and whole after a crash."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
from pathlib import Path

import pytest

from narrows.errors import InputError
from narrows.wire.spool import SpoolReader, SpoolWriter, prune, prune_through
from narrows.wire.spool.file import (
    HEADER_BYTES,
    MAX_CHUNK_BYTES,
    OVERHEAD_BYTES,
    new_key,
    public_of,
)
from narrows.wire.spool.writer import AGE_PARTS, MIN_FILE_BYTES, TIDY_S

PRIVATE, PUBLIC = new_key()
FIRST, SECOND, THIRD = (bytes([n]) * 32 for n in (1, 2, 3))
MAX_BYTES = 1 << 20
DAY_S = 86400.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s


def writer(folder: Path, clock: Clock | None = None, **changed: int) -> SpoolWriter:
    given = {"max_bytes": MAX_BYTES, "file_bytes": MIN_FILE_BYTES, "floor": 0} | changed
    return SpoolWriter(folder, PUBLIC, max_age_s=DAY_S, clock=clock or Clock(), **given)


def whole(reader: SpoolReader, nonce: bytes, offset: int = 0) -> bytes:
    found = b""
    while piece := reader.read(nonce, offset + len(found)):
        found += piece
    return found


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spool"))


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


def three_files(folder: Path) -> bytes:
    """One chapter in three files, ended; what is on its tape."""
    data = random.Random(3).randbytes(3 * MAX_CHUNK_BYTES // 2)
    spool = writer(folder)
    spool.begin(FIRST)
    for start in range(0, len(data), 10_007):
        spool.append(data[start : start + 10_007])
    spool.append(data)
    spool.append(data[:70_000])
    spool.close()
    assert len(files(folder)) == 3
    return data + data + data[:70_000]


def test_what_is_shown_others_may_read_under_every_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        for shown, mode in ((True, 0o644), (False, 0o600)):
            folder = tmp_path / str(shown)
            spool = SpoolWriter(
                folder,
                PUBLIC,
                max_bytes=MAX_BYTES,
                file_bytes=MIN_FILE_BYTES,
                max_age_s=DAY_S,
                shown=shown,
            )
            spool.begin(FIRST)
            spool.close()
            assert [stat.S_IMODE(path.stat().st_mode) for path in files(folder)] == [mode]
    finally:
        os.umask(before)


def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    rng = random.Random(1)
    spool, reader = writer(tmp_path / "s"), SpoolReader(tmp_path / "s", PRIVATE)
    assert reader.chapters() == []
    spool.begin(FIRST)
    written, read = b"", b""
    for _ in range(120):
        data = rng.randbytes(rng.choice([1, 100, 9000]))
        spool.append(data)
        written += data
        assert not reader.ended(FIRST)
        read += reader.read(FIRST, len(read))
        assert read == written
    assert len(files(tmp_path / "s")) > 2
    spool.end()
    assert reader.read(FIRST, len(read)) == b""
    assert reader.ended(FIRST)
    for offset in (0, 1, MAX_CHUNK_BYTES, len(written) - 1, len(written)):
        assert whole(SpoolReader(tmp_path / "s", PRIVATE), FIRST, offset) == written[offset:]
    assert reader.read(FIRST, len(written) + 5) == b""


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    spool = writer(tmp_path / "s")
    spool.begin(FIRST)
    spool.append(b"a prompt")
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o700
    (path,) = files(tmp_path / "s")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"prompt" not in path.read_bytes()
    with pytest.raises(InputError, match="does not open"):
        SpoolReader(tmp_path / "s", new_key()[0]).read(FIRST, 0)


def test_a_shown_spool_can_be_read_by_others(tmp_path: Path) -> None:
    """It is sealed; the folder says who gets there."""
    spool = SpoolWriter(tmp_path / "s", PUBLIC, max_bytes=1 << 30, max_age_s=3600, shown=True)
    spool.begin(bytes(32))
    spool.close()
    [path] = files(tmp_path / "s")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_chapters_go_on_behind_each_other_over_restarts(tmp_path: Path) -> None:
    spool = writer(tmp_path / "s")
    spool.begin(FIRST)
    spool.append(b"x" * 900)
    spool.begin(SECOND)
    spool.append(b"y" * 400)
    spool.close()
    spool = writer(tmp_path / "s")
    spool.begin(THIRD)
    spool.append(b"z")
    reader = SpoolReader(tmp_path / "s", PRIVATE)
    assert reader.chapters() == [FIRST, SECOND, THIRD]
    assert [reader.base(nonce) for nonce in (FIRST, SECOND, THIRD)] == [0, 900, 1300]
    assert [reader.ended(nonce) for nonce in (FIRST, SECOND, THIRD)] == [True, True, False]
    assert whole(reader, SECOND) == b"y" * 400
    with pytest.raises(InputError, match="no chapter"):
        reader.read(bytes(32), 0)


def test_an_emptied_folder_does_not_go_back(tmp_path: Path) -> None:
    spool = writer(tmp_path / "s", floor=5000)
    spool.begin(FIRST)
    assert SpoolReader(tmp_path / "s", PRIVATE).base(FIRST) == 5000


def test_one_process_writes(tmp_path: Path) -> None:
    spool = writer(tmp_path / "s")
    with pytest.raises(InputError, match="cannot write to the spool"):
        writer(tmp_path / "s")
    spool.close()
    writer(tmp_path / "s").close()


def test_a_kill_at_any_byte_ends_the_chapter_there(tmp_path: Path) -> None:
    spool = writer(tmp_path / "s")
    spool.begin(FIRST)
    pieces = [b"a" * 40, b"b" * 50, b"c" * 60]
    for piece in pieces:
        spool.append(piece)
    (path,) = files(tmp_path / "s")
    data = path.read_bytes()
    ends = [HEADER_BYTES]
    for piece in pieces:
        ends.append(ends[-1] + len(piece) + OVERHEAD_BYTES)
    for cut in range(0, len(data) + 1, 3):
        for tail in (b"", bytes(7)):
            folder = tmp_path / "cut"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
            (folder / path.name).write_bytes(data[:cut] + (tail if cut in ends else b""))
            kept = b"".join(p for p, end in zip(pieces, ends[1:], strict=True) if end <= cut)
            reader = SpoolReader(folder, PRIVATE)
            if cut >= HEADER_BYTES:
                assert whole(reader, FIRST) == kept
                assert not reader.ended(FIRST)
            after = writer(folder)
            after.begin(SECOND)
            assert reader.base(SECOND) == len(kept)
            assert reader.chapters()[-1] == SECOND
            if cut >= HEADER_BYTES:
                assert reader.ended(FIRST)
            after.close()


def refused(folder: Path) -> bytes:
    """What is read before the refusal, which there has to be."""
    reader, found = SpoolReader(folder, PRIVATE), b""
    try:
        while piece := reader.read(FIRST, len(found)):
            found += piece
    except InputError:
        return found
    pytest.fail("a damaged spool was read to its end")


def test_chunks_stay_in_their_place(tmp_path: Path) -> None:
    spool = writer(tmp_path / "s")
    spool.begin(FIRST)
    for letter in b"abc":
        spool.append(bytes([letter]) * 100)
    (path,) = files(tmp_path / "s")
    data = path.read_bytes()
    one = 100 + OVERHEAD_BYTES
    a, b, c = (data[HEADER_BYTES + n * one : HEADER_BYTES + (n + 1) * one] for n in range(3))
    for changed, left in [((b, a, c), 0), ((a, c), 1), ((a, a), 1), ((a, b, b), 2), ((c,), 0)]:
        path.write_bytes(data[:HEADER_BYTES] + b"".join(changed))
        assert refused(tmp_path / "s") == b"".join(bytes([n]) * 100 for n in b"abc"[:left])


def test_files_stay_in_their_place(tmp_path: Path) -> None:
    data = three_files(tmp_path / "s")
    first, second, third = (path.name for path in files(tmp_path / "s"))
    assert whole(SpoolReader(tmp_path / "s", PRIVATE), FIRST) == data

    def tampered(number: int) -> Path:
        return Path(shutil.copytree(tmp_path / "s", tmp_path / str(number)))

    gone = tampered(1)
    (gone / second).unlink()
    assert data.startswith(refused(gone))
    cut = tampered(2)
    os.truncate(cut / first, (cut / first).stat().st_size - 1)
    assert data.startswith(refused(cut))
    swapped = tampered(3)
    (swapped / second).rename(swapped / "x")
    (swapped / third).rename(swapped / second)
    (swapped / "x").rename(swapped / third)
    assert refused(swapped) == b""
    longer = tampered(4)
    (longer / third).write_bytes((longer / third).read_bytes() + b"\1")
    assert data.startswith(refused(longer))
    linked = tampered(5)
    (linked / second).unlink()
    (linked / second).symlink_to(tmp_path / "s" / second)
    assert refused(linked) == b""


def test_fuzz_nothing_but_the_truth_is_read(tmp_path: Path) -> None:
    """Any damage gives a prefix of what was written, then an InputError or an end."""
    rng = random.Random(7)
    folder = tmp_path / "s"
    spool = writer(folder)
    spool.begin(FIRST)
    data = rng.randbytes(1500)
    for start in range(0, len(data), 50):
        spool.append(data[start : start + 50])
    spool.begin(SECOND)
    spool.append(data)
    spool.close()
    kept = {path: path.read_bytes() for path in files(folder)}
    for _ in range(250):
        path = rng.choice(list(kept))
        damaged = bytearray(kept[path])
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(len(damaged) + 1)
            match rng.randrange(4):
                case 0:
                    damaged[at : at + 1] = rng.randbytes(1)
                case 1:
                    del damaged[at : at + rng.choice([1, 71, 500])]
                case 2:
                    damaged[at:at] = rng.randbytes(rng.choice([1, 71]))
                case _:
                    damaged[at : at + 4] = rng.choice([bytes(4), b"\xff" * 4])
        path.write_bytes(damaged)
        reader = SpoolReader(folder, PRIVATE)
        for nonce in (FIRST, SECOND):
            found = b""
            try:
                while piece := reader.read(nonce, len(found)):
                    found += piece
            except InputError:
                pass
            assert data.startswith(found)
        path.write_bytes(kept[path])


def fill(spool: SpoolWriter) -> int:
    """Append until there is no room; how many bytes it took."""
    written = 0
    try:
        while True:
            spool.append(b"x" * 30_000)
            written += 30_000
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return written


def test_a_full_spool_ends_the_chapter_until_there_is_room(tmp_path: Path) -> None:
    clock = Clock()
    spool = writer(tmp_path / "s", clock)
    spool.begin(FIRST)
    written = fill(spool)
    assert MAX_BYTES - MIN_FILE_BYTES < size(tmp_path / "s") <= MAX_BYTES
    assert spool.chapter == 0
    with pytest.raises(OSError, match="no chapter"):
        spool.append(b"y")
    with pytest.raises(OSError, match="full"):
        spool.begin(SECOND)
    reader = SpoolReader(tmp_path / "s", PRIVATE)
    assert len(whole(reader, FIRST)) == written
    assert reader.ended(FIRST)
    assert prune(tmp_path / "s", FIRST, written // 2) > 0
    spool.begin(SECOND)
    assert reader.base(SECOND) == written
    assert reader.start(FIRST) > 0


def test_what_is_done_with_is_removed(tmp_path: Path) -> None:
    data = three_files(tmp_path / "s")
    spool = writer(tmp_path / "s")
    spool.begin(SECOND)
    spool.append(b"y" * 10)
    reader = SpoolReader(tmp_path / "s", PRIVATE)
    starts = [header.start for header in reader._list()[:3]]
    assert prune(tmp_path / "s", bytes(32), 1 << 40) == 0
    assert prune(tmp_path / "s", FIRST, starts[1] - 1) == 0
    assert prune(tmp_path / "s", FIRST, starts[1]) == 1
    with pytest.raises(InputError, match="removed"):
        reader.read(FIRST, 0)
    assert whole(reader, FIRST, starts[1]) == data[starts[1] :]
    assert prune(tmp_path / "s", SECOND, 0) == 2
    assert prune_through(tmp_path / "s", 1 << 60) == 0
    assert reader.chapters() == [SECOND]
    assert reader.base(SECOND) == len(data)


def test_a_reader_goes_on_where_a_file_that_it_read_was_removed(tmp_path: Path) -> None:
    spool, reader = writer(tmp_path / "s"), SpoolReader(tmp_path / "s", PRIVATE)
    spool.begin(FIRST)
    data = random.Random(5).randbytes(MIN_FILE_BYTES)
    spool.append(data[:1000])
    assert reader.read(FIRST, 0) == data[:1000]
    spool.append(data[1000:])
    at = reader._list()[-1].start
    assert whole(reader, FIRST, 1000)[: at - 1000] == data[1000:at]
    prune(tmp_path / "s", FIRST, at)
    spool.append(b"more")
    assert whole(reader, FIRST, at) == data[at:] + b"more"


def test_nothing_grows_old(tmp_path: Path) -> None:
    clock = Clock()
    spool = writer(tmp_path / "s", clock)
    spool.begin(FIRST)
    spool.append(b"old")
    clock.now_s += DAY_S / AGE_PARTS
    spool.tick()
    assert len(files(tmp_path / "s")) == 2
    clock.now_s += DAY_S - DAY_S / AGE_PARTS + 1
    spool.tick()
    reader = SpoolReader(tmp_path / "s", PRIVATE)
    assert reader.start(FIRST) == 3
    spool.append(b"new")
    assert whole(reader, FIRST, 3) == b"new"
    spool.tick()
    spool.close()
    clock.now_s += 2 * DAY_S
    again = writer(tmp_path / "s", clock)
    again.begin(SECOND)
    clock.now_s += TIDY_S
    again.tick()
    assert SpoolReader(tmp_path / "s", PRIVATE).chapters() == [SECOND]


@pytest.mark.parametrize("fails_at", range(6))
def test_a_disk_that_fails_ends_the_chapter(
    tmp_path: Path, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the n-th write only half is taken, then nothing; what came before stays."""
    real, calls = os.write, 0

    def write(number: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls - 1 == fails_at:
            return real(number, data[: len(data) // 2])
        if calls - 1 > fails_at:
            raise OSError(errno.EIO, "the disk is gone")
        return real(number, data)

    spool = writer(tmp_path / "s")
    written = b""
    with monkeypatch.context() as broken:
        broken.setattr(os, "write", write)
        try:
            spool.begin(FIRST)
            while len(written) < 600_000:
                piece = bytes([len(written) // 60_000]) * 60_000
                spool.append(piece)
                written += piece
            pytest.fail("it wrote to a disk that is gone")
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        assert spool.chapter == 0
        spool.end()
    spool.begin(SECOND)
    spool.append(b"again")
    reader = SpoolReader(tmp_path / "s", PRIVATE)
    if FIRST in reader.chapters():
        assert whole(reader, FIRST) == written
        assert reader.ended(FIRST)
    assert reader.base(SECOND) == len(written)
    assert whole(reader, SECOND) == b"again"


def test_keys_and_bounds_are_checked(tmp_path: Path) -> None:
    assert public_of(PRIVATE) == PUBLIC
    for key in (b"", bytes(32), bytes([1]) + bytes(31)):
        with pytest.raises(InputError, match="key is refused"):
            SpoolWriter(tmp_path / "s", key, max_bytes=1 << 30, max_age_s=1)
    with pytest.raises(InputError, match="private key has 32"):
        SpoolReader(tmp_path / "s", b"short")
    for changed in ({"file_bytes": MIN_FILE_BYTES - 1}, {"max_bytes": 4 * MIN_FILE_BYTES - 1}):
        with pytest.raises(InputError, match="must fit"):
            writer(tmp_path / "s", None, **changed)
    (tmp_path / "s").mkdir(mode=0o777)
    (tmp_path / "s").chmod(0o777)
    with pytest.raises(InputError, match="others may write"):
        writer(tmp_path / "s")
