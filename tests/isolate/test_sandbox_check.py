"""What a sandbox is refused before anything runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from narrows.errors import InputError
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
