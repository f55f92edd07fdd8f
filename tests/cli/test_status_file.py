"""``narrows status`` over a gate's stats file that somebody changed: a sentence, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from narrows.cli.status import collect
from narrows.errors import InputError
from narrows.ledger.demo import create_demo

NOW_S = 1_800_000_000.0


def test_a_changed_stats_file_is_named(tmp_path: Path) -> None:
    create_demo(tmp_path, 1000)
    assert collect(tmp_path, NOW_S)["gate_ports"] == {}
    path = tmp_path / "gate" / "stats.json"
    path.parent.mkdir()
    path.write_text('{"ports": {"answers": {"timing_bytes": 5, "state": "ok"}}}')
    assert collect(tmp_path, NOW_S)["gate_ports"]["answers"]["timing_bytes"] == 5
    for text in ("", "words", "[]", "[" * 100_000, '{"ports": 5}', '{"ports": {"a": 3}}', "{}",
                 '{"ports": {"a": {"timing_bytes": "5"}}}'):  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError):
            collect(tmp_path, NOW_S)
