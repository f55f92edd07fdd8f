"""Attacks by restarts, clocks, older ledgers and full windows, each on roles of its own."""

from __future__ import annotations

import re

import pytest

from narrows.redteam.catalogue import every_attack
from narrows.redteam.client import Seen
from narrows.redteam.report.text import closing
from narrows.redteam.roles import most_in_window
from narrows.redteam.run import run


@pytest.mark.slow  # 5 attacks on a set of processes each: 10 s of CPU, the rest is waiting
@pytest.mark.timeout(900)
def test_no_attack_on_the_ledger_beats_its_charge() -> None:
    campaign = run([one for one in every_attack() if one.group == "ledger"], 11)
    found = {result.name: result for result in campaign.results}
    assert len(found) == 5
    assert not campaign.vulnerabilities, closing(campaign).plain
    assert not campaign.failures, closing(campaign).plain
    assert "rolled back" in found["ledger-restored"].note
    assert found["clock-moved"].payload_bits == 8 * 40_000
    assert found["clock-moved"].note.endswith("then window, clock, clock, clock")
    assert re.match(r"at most [\d,]+ of 40,000 bytes in 2 s, ", found["window-edges"].note)
    assert found["window-edges"].payload_bits > 8 * 20_000


def test_the_most_in_any_window_is_found() -> None:
    seen = Seen([(0.0, b"aaaa"), (0.9, b"bbbb"), (1.0, b"cc"), (2.5, b"d")])
    assert most_in_window(seen, 1.0) == 8, "half open: 1.0 is not within one second of 0.0"
    assert most_in_window(seen, 1.01) == 10
    assert most_in_window(seen, 0.05) == 4
    assert most_in_window(Seen(), 1.0) == 0
