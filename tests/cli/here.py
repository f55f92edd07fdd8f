"""A command of narrows in the test's own process."""

from __future__ import annotations

import pytest

from narrows.cli.main import main


def exit_code(*words: object) -> int:
    """What the command ends with."""
    try:
        main([str(word) for word in words])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def outcome(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command alone."""
    capsys.readouterr()
    code = exit_code(*words)
    said = capsys.readouterr()
    return code, said.out, said.err


def run(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    """What it printed on both, where it ends with ``code``."""
    got, out, err = outcome(capsys, *words)
    assert got == code, err
    return out + err
