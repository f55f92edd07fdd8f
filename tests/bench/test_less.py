"""``narrows bench less``: kept reasoning saves its share, and what is left is exact."""

from __future__ import annotations

import random
import string

import pytest

from narrows.bench.less.run import measure, scripted
from narrows.errors import InputError
from narrows.models.bytemodel import ByteModel

LETTERS = string.ascii_letters  # nothing to learn: bytes are shared as characters are
ROWS = [
    {"prompt": "What leaves?", "response": "".join(random.Random(number).choices(LETTERS, k=600))}
    for number in range(4)
]


def test_kept_reasoning_saves_its_share() -> None:
    modes = measure(ByteModel(), ROWS, 0.7)["modes"]
    assert modes["plain"]["exact"]
    assert modes["kept"]["exact"]
    assert modes["kept"]["answers"] == len(ROWS)
    assert modes["kept"]["full_bytes"] == modes["plain"]["bytes"]
    # So short an answer costs more a byte than one that is longer.
    assert 0.65 <= modes["kept"]["saved_share"] <= 0.72


def test_the_script_is_as_asked() -> None:
    for one in scripted(ROWS, 0.7):
        whole = len(one.reasoning) + len(one.content)
        assert len(one.reasoning) / whole == pytest.approx(0.7, abs=0.01)
    with pytest.raises(InputError):
        scripted([{"prompt": "x", "response": " "}], 0.7)
