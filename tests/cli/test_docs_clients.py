"""docs/clients.md holds what ``make clients`` writes, and no row of anything else."""

from __future__ import annotations

import re

from clients.drive import CHECKS, PAGE, kept, table


def test_the_page_has_a_row_of_each_check_that_is_made() -> None:
    rows = re.findall(r"^\| (\S+) (\S+) \| (.*) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert [(package, what) for package, _, what, _ in rows] == [
        (one.package, one.what) for one in CHECKS
    ]
    assert {said for *_, said in rows} == {"works"}
    written = table([(CHECKS[0], "1.2", "works")])
    assert written.splitlines()[-1] == f"| {CHECKS[0].package} 1.2 | {CHECKS[0].what} | works |"


def test_what_was_not_run_keeps_its_rows() -> None:
    first, second, third = CHECKS[:3]
    page = table([(first, "1", "works"), (second, "1", "works")])
    found = kept([(third, "2", "works"), (first, "2", "fails: X")], page)
    assert found == [(first, "2", "fails: X"), (second, "1", "works"), (third, "2", "works")]
