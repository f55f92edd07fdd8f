"""docs/clients.md holds what ``make clients`` writes, and no row of anything else."""

from __future__ import annotations

import re

from clients.drive import CHECKS, PAGE, table


def test_the_page_has_a_row_of_each_check_that_is_made() -> None:
    rows = re.findall(r"^\| (\S+) (\S+) \| (.*) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert [(package, what) for package, _, what, _ in rows] == [
        (one.package, one.what) for one in CHECKS
    ]
    assert {said for *_, said in rows} == {"works"}
    written = table([(CHECKS[0], "1.2", "works")])
    assert written.splitlines()[-1] == f"| {CHECKS[0].package} 1.2 | {CHECKS[0].what} | works |"
