"""What people see: the page, the picture, the terminal, and the commands around them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import plotly.graph_objects as go
import pytest

from narrows.cli.main import main
from narrows.errors import InputError
from narrows.plan import show
from narrows.plan.analysis import analyse
from narrows.plan.report import figures
from narrows.plan.report.compare import sweep_values
from narrows.plan.report.html import render_html
from narrows.plan.report.png import write_png
from narrows.plan.scenario import build, load, preset_names
from narrows.plan.units import UnitError
from narrows.tomlfile import parse_toml

EVIL = "</script><script>alert(1)</script><img src=https://evil.example/x>"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Output of a command that succeeds; typer leaves through SystemExit(0)."""
    with pytest.raises(SystemExit) as ended:
        main(["plan", *words])
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    return captured.out


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *words])
    assert ended.value.code == 2
    return capsys.readouterr().err


def plain(figure: object) -> object:
    """A figure with its colour names resolved, as the page does it."""
    if isinstance(figure, str):
        return "rgba(1,2,3,0.5)" if figure.startswith("$") else figure
    if isinstance(figure, list):
        return [plain(item) for item in figure]
    if isinstance(figure, dict):
        return {key: plain(value) for key, value in figure.items()}
    return figure


@pytest.mark.parametrize("name", preset_names())
def test_figures_are_valid_plotly(name: str) -> None:
    """plotly's own validator accepts every trace and layout key."""
    plan = analyse(load(None, name), 1_000)
    for build_one in (
        figures.fan_figure,
        figures.exceedance_figure,
        figures.waterfall_figure,
        figures.tornado_figure,
    ):
        go.Figure(plain(build_one(plan)))


@pytest.fixture(scope="module")
def page() -> str:
    text = f'name = "x"\ndescription = "{EVIL}"\nsources = ["{EVIL}"]\n'
    text += '[model]\nparameters = "70B"\n[demand]\ntokens_per_day = "1B..4B"\n'
    return render_html(analyse(build(parse_toml(text, "evil.toml")), 1_000))


def own_part(page: str) -> str:
    """The page without plotly's script."""
    start = page.index("<script>", page.index("</footer>"))
    return page[:start] + page[page.index("</script>", start) :]


def test_the_page_loads_nothing(page: str) -> None:
    own = own_part(page)
    assert "default-src 'none'" in own
    assert not re.search(r"<(link|img|iframe|object|embed)\b", own)
    assert not re.search(r"\b(src|href)\s*=", own.replace(EVIL, "").replace("img src=", ""))
    assert "fetch(" not in own
    assert len(page) > 1_000_000  # the chart library is inside


def test_the_page_escapes_what_a_scenario_says(page: str) -> None:
    own = own_part(page)
    assert "<script>alert" not in own
    assert "<img" not in own
    assert "&lt;script&gt;alert(1)" in own


def test_the_page_knows_light_dark_and_phones(page: str) -> None:
    own = own_part(page)
    assert "prefers-color-scheme: dark" in own
    assert 'name="viewport"' in own
    names = set(re.findall(r'"\$(\w+)', own))
    light = own[own.index(":root") : own.index("@media")]
    for name in names:
        assert f"--{name}:" in light, name


def test_the_page_says_the_smallest_caps_and_the_break_even(page: str) -> None:
    section = page.partition("The smallest cap that serves")[2].partition("</section>")[0]
    rows = section.split("<tr>")[2:]
    assert [row.partition("</td>")[0].removeprefix("<td>") for row in rows] == [
        "raw", "compressed", "coupled",
    ]  # fmt: skip
    for row in rows:
        assert [f'data-label="{day} day"' in row for day in ("p50", "p95", "p99")] == [True] * 3
        assert re.search(r'data-label="break-even">[0-9.]+<', row)


def test_png_is_a_picture(tmp_path: Path) -> None:
    target = tmp_path / "p.png"
    write_png(analyse(load(None, "research-model"), 1_000), target)
    data = target.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20]) == 1600
    with pytest.raises(InputError, match="cannot write"):
        write_png(analyse(load(None, "research-model"), 10), tmp_path / "no" / "p.png")


def test_terminal_report_begins_with_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "--preset", "llama-3.1-8b", "--draws", "2000")
    assert out.startswith("CANNOT BE PROTECTED")
    assert "[budget]" in out
    assert "narrows budget propose --lineage llama-3.1-8b" in out
    assert all(len(line) <= 80 or line.startswith("#") for line in out.splitlines())


def test_a_narrow_terminal_loses_no_figure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--preset", "llama-3.1-8b", "--draws", "500")
    wide = run(capsys, *words)
    monkeypatch.setenv("COLUMNS", "30")
    assert run(capsys, *words) == wide
    assert "compressed *" in wide


def test_json_of_a_file_with_flags(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('[model]\nweights = "2 TB"\n[defender]\ncap = "1 GB/day"\n')
    words = (str(file), "--set", "lifetime=1 year", "--draws", "100", "--json")
    report = json.loads(run(capsys, *words))
    assert report["days_to_exfiltrate"]["raw"]["p50"] == 2000.0
    assert report["cap_bytes_per_day"] == 1e9
    assert report["weights_bytes"] == 2e12
    assert report["inputs"]["demand.lifetime"]["p50"] == 365.25


def test_html_and_png_are_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    html, png = tmp_path / "r.html", tmp_path / "r.png"
    out = run(
        capsys, "--preset", "deepseek-v3", "--draws", "500", "--html", str(html), "--png", str(png)
    )
    assert f"wrote {html}" in out.replace("\n", " ")
    assert html.stat().st_size > 1_000_000
    assert png.stat().st_size > 10_000


def test_compare_has_a_column_each(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", "deepseek-v3", "research-model", "--draws", "500")
    assert "research-model" in run(capsys, *words)
    reports = json.loads(run(capsys, *words, "--json"))["scenarios"]
    assert [report["scenario"] for report in reports] == ["deepseek-v3", "research-model"]
    assert "2 to 20" in fails(capsys, "compare", "deepseek-v3")


def test_compare_reports_the_mistakes_of_all_its_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text('[model]\nparameters = "-1B"\n')
    err = fails(capsys, "compare", str(tmp_path / "a.toml"), "nope", str(tmp_path / "b.toml"))
    assert "a.toml:2" in err
    assert "b.toml:2" in err
    assert "nope" in err


def test_the_budget_is_written_as_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("--preset", "llama-3.1-8b", "--draws", "500", "--budget")
    out = run(capsys, *words, str(tmp_path / "budget.toml"))
    block = (tmp_path / "budget.toml").read_text()
    assert block.startswith("[budget]\nlineage = ")
    assert block.strip() in out
    assert "cannot write" in fails(capsys, *words, str(tmp_path / "no" / "budget.toml"))


def test_sweep_is_a_grid(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "--preset", "deepseek-v3", "--draws", "200"]
    words += ["--over", "cap=1..100 GB/day:3", "--over", "weight_compression=1,10"]
    points = json.loads(run(capsys, *words, "--json"))["points"]
    assert [point["cap_bytes_per_day"] for point in points] == pytest.approx(
        [1e9, 1e9, 1e10, 1e10, 1e11, 1e11]
    )
    days = [point["days_to_exfiltrate"]["raw"]["p50"] for point in points]
    assert days == pytest.approx([671, 67.1, 67.1, 6.71, 6.71, 0.671])
    assert "weight" in run(capsys, *words)


@pytest.mark.parametrize(
    "text", ["", "1..2 GB:1", "1 GB..2 TB", "0..5:3", "a..b", "1..2:x", "inf..1:3"]
)
def test_sweeps_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UnitError):
        sweep_values(text)


def test_wrong_words_exit_with_2_and_all_problems(capsys: pytest.CaptureFixture[str]) -> None:
    err = fails(capsys, "--preset", "deepseek-v3", "--set", "hidden_share=150%", "--lifetime", "2")
    assert "150 % is over 100 %" in err
    assert "lifetime" in err
    assert "no scenario" in fails(capsys)
    assert "no preset" in fails(capsys, "--preset", "nope")
    assert "cannot read" in fails(capsys, "/nonexistent/s.toml")
    assert "KEY=VALUE" in fails(capsys, "--preset", "deepseek-v3", "--set", "cap")
    assert "at most" in fails(
        capsys, "sweep", "--preset", "deepseek-v3", "--over", "cap=1..2 GB/day:400",
        "--over", "weight_compression=1,2",
    )  # fmt: skip


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    listed = run(capsys, "--presets")
    assert all(name in listed for name in preset_names())
    assert set(json.loads(run(capsys, "--presets", "--json"))) == set(preset_names())


def test_a_forecast_imports_nothing_heavy() -> None:
    """It starts fast because it leaves these alone."""
    code = (
        "import sys; from narrows.cli.main import main\n"
        "try: main(['plan', '--preset', 'deepseek-v3', '--draws', '100', '--json'])\n"
        "except SystemExit: pass\n"
        "heavy = {'scipy', 'numba', 'onnxruntime', 'torch', 'plotly', 'matplotlib', 'jinja2',"
        " 'aiohttp', 'starlette'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: show.size(810e9), "810 GB"),
        (lambda: show.size(999.6e6), "1 GB"),
        (lambda: show.size(float("inf")), "unlimited"),
        (lambda: show.days(1.88), "1.88 days"),
        (lambda: show.days(0.075), "1.8 h"),
        (lambda: show.days(365.25), "1 year"),
        (lambda: show.days(20_000), "54.8 years"),
        (lambda: show.days(float("inf")), "never"),
        (lambda: show.count(15.6e12), "15.6T"),
        (lambda: show.share(0.0004), "under 0.1 %"),
        (lambda: show.share(0.9996), "over 99.9 %"),
        (lambda: show.between("1 GB", "2 GB"), "1 – 2 GB"),
        (lambda: show.between("1 MB", "2 GB"), "1 MB – 2 GB"),
    ],
)
def test_numbers_in_words(call: object, text: str) -> None:
    assert callable(call)
    assert call() == text
