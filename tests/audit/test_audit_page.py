"""A report as a page, and a report that somebody else wrote: escaped, bounded, refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from audit.rig import played, reported, weak
from narrows.audit.auditor import Rules
from narrows.audit.page import figures
from narrows.audit.page.charges import by_kind
from narrows.audit.page.html import render_html
from narrows.audit.page.reader import MAX_REPORT_BYTES, read_report
from narrows.audit.page.series import MAX_POINTS, Series
from narrows.bench.audit.tape import tape_of
from narrows.cli.main import main
from narrows.errors import InputError

EVIL = "</script></pre><script>alert(1)</script><img src=https://evil.example/x>\u202e"
FIGURES = (
    figures.kinds_figure,
    figures.worst_figure,
    figures.histogram_figure,
    figures.position_figure,
    figures.bound_figure,
)


def found() -> dict[str, Any]:
    return reported(tape_of(weak(), played()))


def evil() -> dict[str, Any]:
    one = found()
    one |= {"state": EVIL, "scorer": EVIL, "not_scored": {EVIL: 1}, "link_faults": {EVIL: 2}}
    one["worst"] = [{**row, "prompt": EVIL} for row in one["worst"]]
    one["bits_by_kind"] |= {EVIL: 1.0}
    return one


def own_part(page: str) -> str:
    """The page without plotly's script."""
    start = page.index("<script>", page.index("</footer>"))
    return page[:start] + page[page.index("</script>", start) :]


def plain(value: object) -> object:
    if isinstance(value, str):
        return "#123456" if value.startswith("$") else value
    if isinstance(value, list):
        return [plain(item) for item in value]
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def test_the_page_shows_what_the_report_says() -> None:
    one = found()
    own = own_part(render_html(one))
    for text in (
        "Unexplained bits a token", "Tokens off the winner", "Net ÷ raw", "Alarm", "Explained.",
        "What stays charged", "The dearest answers", "hello", "Gaps by position", "The bound",
    ):  # fmt: skip
        assert text in own, text
    assert f"{one['unexplained_bits']:.4f}" in own
    assert "default-src 'none'" in own
    assert 'name="viewport"' in own
    light = own[own.index(":root") : own.index("@media")]
    for name in set(re.findall(r'"\$(\w+)', own)):
        assert f"--{name}:" in light, name


def test_a_hostile_report_does_not_become_html() -> None:
    own = own_part(render_html(evil()))
    assert "<script>alert" not in own
    assert "<img" not in own
    assert "\u202e" not in own
    assert "&lt;script&gt;alert(1)" in own


def test_no_text_of_a_report_stands_in_a_figure() -> None:
    for figure in FIGURES:
        drawn = figure(evil())
        assert drawn is not None
        assert "evil" not in json.dumps(drawn)
        go.Figure(plain(drawn))


def test_what_is_missing_is_left_out() -> None:
    """An older report, and a tape in which nothing could be scored."""
    one = found()
    for key in ("histogram", "over_time", "model"):
        del one[key]
    one |= {"worst": [], "by_position": {}, "unexplained_bits_upper_95": None, "net_over_raw": None}
    assert [figure(one) is None for figure in FIGURES] == [False, True, True, True, True]
    assert "What stays charged" in render_html(one)


def test_the_kinds_are_what_was_not_credited() -> None:
    one = found()
    left = one["raw_bits"] - 8 * one["credit_bytes"]
    assert sum(bits for _, bits in by_kind(one)) == pytest.approx(left)


def test_the_series_is_bounded_and_ends_at_the_end() -> None:
    tape = tape_of(weak(), played())
    one = reported(tape)
    assert one["over_time"][0] == [0, 0.0, 0.0]
    segments, truth, bound = one["over_time"][-1]
    assert segments == one["segments"]
    assert truth == pytest.approx(bound, rel=0.01)  # every segment is audited
    assert sum(count for _, count in one["histogram"]) == one["drawn"]
    shared = reported(tape, Rules(share=0.5))
    assert shared["over_time"][-1][2] == shared["bound_bits"]
    series = Series()
    long = reported(tape)["over_time"]
    assert len(long) <= MAX_POINTS
    assert series.found()["over_time"] == []


def test_many_segments_keep_every_other_point() -> None:
    from audit.rig import auditor
    from narrows.audit.auditor import Drawn

    series, one = Series(), auditor()
    series.follow(one)
    for _ in range(3 * MAX_POINTS):
        one.tally.segments += 1
        series.drawn(Drawn(65536, 6553, 10))
    points = series.found()["over_time"]
    assert MAX_POINTS / 4 <= len(points) < MAX_POINTS
    assert [point[0] for point in points] == sorted({point[0] for point in points})
    assert points[-1][:2] == [3 * MAX_POINTS, 3 * MAX_POINTS]


def test_the_commands_write_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, page = tmp_path / "report.json", tmp_path / "page.html"
    report.write_text(json.dumps(evil()))
    with pytest.raises(SystemExit) as ended:
        main(["audit", "show", str(report), "--html", str(page)])
    assert ended.value.code == 0
    assert "\u202e" not in capsys.readouterr().out
    assert "<script>alert" not in own_part(page.read_text())


@pytest.mark.parametrize(
    "change",
    [
        {"share": "x"}, {"share": 10**400}, {"share": 0}, {"tokens": 10**400}, {"tokens": None},
        {"state": 3}, {"state": "x" * 300}, {"worst": [[]]}, {"worst": [{"prompt": 1}]},
        {"worst": {}}, {"by_position": {"a": 1}}, {"by_position": {"1": "x"}},
        {"bits_by_kind": []}, {"bits_by_kind": {"a": float("nan")}}, {"alarm": 1},
        {"not_scored": {"x": -1}}, {"histogram": [[1]]}, {"over_time": [[0, 0, 0]] * 2000},
        {"evidence_bits": float("inf")}, {"model": {"parameters": "x"}},
    ],
)  # fmt: skip
def test_reports_of_other_kinds_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """With the field's name, whatever it holds."""
    path = tmp_path / "report.json"
    path.write_text(json.dumps(found() | change))
    with pytest.raises(InputError, match=next(iter(change))):
        read_report(path)


def test_reports_that_are_too_large_or_deep_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    for text in (
        "[" * 500_000,
        "{" * 10,
        "1" * 9999,
        '{"a":' * 200_000,
        "\ud800".encode("utf-16le", "surrogatepass"),
    ):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(InputError, match="no report"):
            read_report(path)
    path.write_bytes(b" " * (MAX_REPORT_BYTES + 1))
    with pytest.raises(InputError, match="larger than"):
        read_report(path)
    rows = found()
    rows["worst"][0]["charges"] = [0.1] * 5000
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match="charges"):
        read_report(path)
