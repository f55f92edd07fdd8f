"""What the machine refuses is told apart from what is narrows' own fault."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
from pathlib import Path

import pytest

from narrows.cli.machine import machine_error
from narrows.errors import InputError, PeerError


def _database_error(path: Path, statement: str) -> sqlite3.DatabaseError:
    with (
        pytest.raises(sqlite3.DatabaseError) as caught,
        contextlib.closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True)) as database,
    ):
        database.execute(statement)
    return caught.value


def test_a_database_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    absent = _database_error(tmp_path / "absent", "select 1")
    broken = tmp_path / "broken"
    broken.write_bytes(b"no database " * 100)
    garbled = _database_error(broken, "select * from sqlite_master")
    for error in (absent, garbled):
        told = machine_error(error)
        assert isinstance(told, InputError)
        assert "a database in the state folder cannot be used" in str(told)


def test_a_wrong_statement_is_a_bug(tmp_path: Path) -> None:
    path = tmp_path / "books"
    sqlite3.connect(path).close()
    path.touch()
    assert machine_error(_database_error(path, "select * from absent")) is None
    assert machine_error(sqlite3.OperationalError("raised by no database")) is None


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EACCES])
def test_a_refusal_without_a_name_is_a_bug(code: int) -> None:
    assert machine_error(OSError(code, os.strerror(code))) is None
    told = machine_error(OSError(code, os.strerror(code), "/there"))
    assert str(told) == f"cannot use /there: {os.strerror(code)}"


@pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EFBIG]
)
def test_a_disk_needs_no_name(code: int) -> None:
    told = machine_error(OSError(code, os.strerror(code)))
    assert str(told).startswith(f"the system refuses: {os.strerror(code)}")


def test_a_port_that_may_not_be_used_is_told() -> None:
    async def listen() -> None:
        def refused(self: object, address: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("socket.socket.bind", refused)
            await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 80)

    with pytest.raises(OSError, match="bind") as caught:
        asyncio.run(listen())
    assert isinstance(machine_error(caught.value), PeerError)
