"""``narrows plan [FILE]``, ``narrows plan compare`` and ``narrows plan sweep``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from narrows.errors import InputError

if TYPE_CHECKING:
    from narrows.plan.scenario import Scenario


def _app() -> typer.Typer:
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


forecast_app, compare_app, sweep_app = _app(), _app(), _app()

Preset = Annotated[str | None, typer.Option("--preset", help="A complete scenario by name.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any field of the scenario; repeatable."),
]
Draws = Annotated[int, typer.Option("--draws", help="Futures to draw.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same numbers.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object for machines.")]
_File = Annotated[str | None, typer.Argument(metavar="FILE", help="A scenario in TOML.")]


def _settings(pairs: list[str] | None, flags: Mapping[str, str | None]) -> dict[str, str]:
    settings = {key: value for key, value in flags.items() if value is not None}
    problems = []
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            problems.append(f"--set {pair}: write KEY=VALUE, as in cap='100 GB/day'")
        settings[key.strip()] = value.strip()
    if problems:
        raise InputError("flags that cannot be read", problems=tuple(problems))
    return settings


def _measured(
    codec: Path | None, ledger: Path | None, audit: list[Path] | None
) -> tuple[dict[str, str], list[str]]:
    from narrows.cli.plan import measured

    found = []
    if codec is not None:
        found.append(measured.from_codec(codec))
    if ledger is not None:
        found.append(measured.from_ledger(ledger))
    if audit:
        found.append(measured.from_audit(audit))
    overrides = {key: value for one in found for key, value in one.overrides.items()}
    return overrides, [f"Measured: {one.note}." for one in found]


@forecast_app.command(
    epilog="Example: narrows plan --preset llama-3.1-405b --set weight_compression=1..16 "
    "--html report.html   With an audit: narrows plan --preset deepseek-v3 "
    "--from-audit audit.json   Also: narrows plan compare | sweep | weights"
)
def forecast(
    file: _File = None,
    preset: Preset = None,
    set_: Settings = None,
    parameters: Annotated[str | None, typer.Option(help="As in 405B.")] = None,
    weights: Annotated[str | None, typer.Option(help="As in '810 GB'.")] = None,
    tokens_per_day: Annotated[str | None, typer.Option(help="As in 168B.")] = None,
    lifetime: Annotated[str | None, typer.Option(help="As in '2 years'.")] = None,
    cap: Annotated[str | None, typer.Option(help="As in '100 GB/day'.")] = None,
    coding: Annotated[str | None, typer.Option(help="raw, compressed or coupled.")] = None,
    verification: Annotated[str | None, typer.Option(help="true or false.")] = None,
    from_codec: Annotated[
        Path | None, typer.Option(help="Bits per token from 'narrows bench codec --json'.")
    ] = None,
    from_ledger: Annotated[
        Path | None, typer.Option(help="Bits and tokens per day of a state folder's traffic.")
    ] = None,
    from_audit: Annotated[
        list[Path] | None,
        typer.Option(
            help="What an audit leaves, from 'narrows audit run --out' or 'narrows bench audit "
            "--json'; again for a range."
        ),
    ] = None,
    draws: Draws = 100_000,
    seed: Seed = 1,
    as_json: Json = False,
    html: Annotated[Path | None, typer.Option(help="Write a report with pictures.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write the pictures alone.")] = None,
    budget: Annotated[
        Path | None, typer.Option(help="Write the budget, for 'narrows budget propose --from'.")
    ] = None,
    presets: Annotated[bool, typer.Option("--presets", help="List the presets.")] = False,
) -> None:
    """Forecast: will an upload limit protect this model, and which limit?

    The scenario is a FILE, a --preset, flags, or flags over one of them.
    """
    from narrows.plan.scenario import load

    if presets:
        _list_presets(as_json)
        return
    flags = {
        "parameters": parameters,
        "weights": weights,
        "tokens_per_day": tokens_per_day,
        "lifetime": lifetime,
        "cap": cap,
        "coding": coding,
        "verification": verification,
    }
    overrides, measured_notes = _measured(from_codec, from_ledger, from_audit)
    overrides |= _settings(set_, flags)
    if file is None and preset is None and not overrides:
        raise InputError(
            "no scenario", "give a FILE or --preset; 'narrows plan --presets' lists the presets"
        )
    scenario = load(file, preset, overrides)

    from narrows.plan.analysis import analyse
    from narrows.plan.analysis import as_json as report

    plan = analyse(scenario, draws, seed)
    plan.notes[:0] = measured_notes
    if html is not None:
        from narrows.plan.report.html import write_html

        write_html(plan, html)
    if png is not None:
        from narrows.plan.report.png import write_png

        write_png(plan, png)
    if budget is not None:
        from narrows.plan.budget import write_budget

        write_budget(plan.budget, budget)
    if as_json:
        typer.echo(json.dumps(report(plan), indent=2, allow_nan=False))
        return
    from narrows.cli.console import report_console
    from narrows.plan.report.text import render

    render(plan, report_console())
    for path in (html, png, budget):
        if path is not None:
            typer.echo(f"wrote {path}")


def _list_presets(as_json: bool) -> None:
    from narrows.plan.scenario import load, preset_names

    found = {name: load(None, name).description for name in preset_names()}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for name, description in found.items():
        typer.echo(f"{name:18} {description}")


@compare_app.command(
    epilog="Example: narrows plan compare llama-3.1-405b deepseek-v3 mine.toml --json"
)
def compare(
    scenarios: Annotated[list[str], typer.Argument(metavar="A B ...", help="Files or presets.")],
    set_: Settings = None,
    draws: Draws = 100_000,
    seed: Seed = 1,
    as_json: Json = False,
) -> None:
    """Several scenarios side by side, with the same luck."""
    from narrows.plan.analysis import analyse
    from narrows.plan.analysis import as_json as report
    from narrows.plan.scenario import load

    if not 2 <= len(scenarios) <= 20:
        raise InputError("compare takes 2 to 20 scenarios", "name files or presets")
    overrides = _settings(set_, {})
    loaded, problems = [], list[str]()
    for one in scenarios:
        try:
            loaded.append(load(one, None, overrides))
        except InputError as error:
            problems += error.problems or [f"{one}: {error.message}"]
    if problems:
        raise InputError("scenarios that cannot be compared", problems=tuple(problems))
    if as_json:
        reports = [report(analyse(one, draws, seed)) for one in loaded]
        typer.echo(json.dumps({"scenarios": reports}, indent=2, allow_nan=False))
        return
    from narrows.cli.console import report_console
    from narrows.plan.report.compare import render_compare

    render_compare([analyse(one, draws, seed) for one in loaded], report_console())


@sweep_app.command(
    epilog="Example: narrows plan sweep --preset deepseek-v3 --over 'cap=1..1000 GB/day:4' "
    "--over weight_compression=1,10,100"
)
def sweep(
    over: Annotated[
        list[str],
        typer.Option("--over", metavar="KEY=VALUES", help="a,b,c or a..b:n; repeatable: a grid."),
    ],
    file: _File = None,
    preset: Preset = None,
    set_: Settings = None,
    draws: Draws = 20_000,
    seed: Seed = 1,
    as_json: Json = False,
) -> None:
    """One scenario over a range of inputs."""
    from narrows.plan.report.compare import point_json, render_sweep
    from narrows.plan.report.compare import sweep as run
    from narrows.plan.scenario import load

    overrides = _settings(set_, {})

    def make(settings: Mapping[str, str]) -> Scenario:
        return load(file, preset, {**overrides, **settings})

    points = run(make, over, draws, seed)
    if as_json:
        rows = {"draws": draws, "seed": seed, "points": [point_json(point) for point in points]}
        typer.echo(json.dumps(rows, indent=2, allow_nan=False))
        return
    from narrows.cli.console import report_console

    render_sweep(points, report_console())
