"""What a sandbox is refused before anything runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from narrows.errors import InputError, PeerError
from narrows.isolate import sandbox
from narrows.isolate.sandbox import Sandbox


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("owner", [12345, 0])
def test_who_is_inside_can_enter_the_folders_that_it_may_read(tmp_path: Path, owner: int) -> None:
    folder = tmp_path / "lent"
    folder.mkdir()
    os.chown(folder, owner, owner)
    box = Sandbox(12345, placed={"/run/narrows/keys": folder})
    folder.chmod(0o555)
    box.check(tmp_path / "state", shown=())
    folder.chmod(0o444)
    with pytest.raises(InputError) as refused:
        box.check(tmp_path / "state", shown=())
    assert f"{folder} is not readable by others (chmod o+rX)" in refused.value.problems


def test_a_preparation_that_fails_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spared role is tried again every few seconds, for ever."""

    def fails() -> bytes:
        raise PeerError("no such machine")

    monkeypatch.setattr(
        sandbox, "new_user_namespace", lambda uid: os.open("/dev/null", os.O_RDONLY)
    )
    monkeypatch.setattr(sandbox.seccomp, "program", fails)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(PeerError):
        Sandbox(12345, data={"/run/narrows/a": b"a"}).prepare(["true"])
    assert set(os.listdir("/proc/self/fd")) == before
