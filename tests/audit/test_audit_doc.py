"""The worked example of docs/audit.md, number by number."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from narrows.audit.charge import segment_cost_q16
from narrows.audit.code import ONE_BIT, AuditCode, Learned
from narrows.coding.tokens import noise

PAGE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")


def test_the_example_is_what_the_code_does() -> None:
    rows = re.findall(
        r"^\| (\d) \| ([−\d. ]+) \| ([\d. ]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.M
    )
    assert len(rows) == 3
    logits = np.array([0, -65536, -131072, -196608], np.int32)
    code = AuditCode(4, 65536, 65536, bytes(32), Learned())
    total = 0
    for position, (number, luck, weights, cost, other) in enumerate(rows):
        assert int(number) == position
        row, words = noise.noise_row(bytes(32), position), np.zeros(1024, np.uint32)
        noise.words(row, words)
        g = [int(noise.token_noise(row, i, words[i])) / 2**24 for i in range(4)]
        assert [float(x) for x in luck.replace("−", "-").split()] == pytest.approx(g, abs=6e-4)
        assert [float(x) for x in weights.split()] == pytest.approx(code.learned.weights, abs=6e-5)
        code.prepare(logits, position)
        assert code.winner == 0
        assert float(cost) == pytest.approx(code.cost_q16(0) / ONE_BIT, abs=6e-5)
        assert float(other) == pytest.approx(code.cost_q16(1) / ONE_BIT, abs=6e-5)
        total += code.cost_q16(0)
        code.update(0)
    said = re.search(r"audit is ([\d.]+) and the cost is ([\d.]+); ([\d.]+) bits", PAGE)
    assert said is not None
    cost_bits = segment_cost_q16(total, 4 * ONE_BIT) / ONE_BIT
    assert float(said[1]) == pytest.approx(total / ONE_BIT, abs=1e-4)
    assert float(said[2]) == pytest.approx(cost_bits, abs=6e-4)
    assert float(said[3]) == pytest.approx(4 - cost_bits, abs=6e-4)
    assert cost_bits == pytest.approx(-math.log2(2.0 ** (-total / ONE_BIT - 1) + 2.0**-5), abs=1e-4)
