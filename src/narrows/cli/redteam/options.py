"""What ``run`` and ``all`` share: their options, and what they do."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from narrows.redteam.attack import Attack

HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write the report here.")]
SeedOption = Annotated[
    int | None, typer.Option(min=0, help="Of payload and chance; a random one is printed.")
]
ScaleOption = Annotated[
    float, typer.Option(min=0.1, max=1000, help="Payloads and lengths, times this.")
]
SecondsOption = Annotated[
    float | None, typer.Option(min=1, help="Begin no attack later than this.")
]
IsolatedOption = Annotated[
    bool,
    typer.Option(
        "--isolated", help="In network namespaces, with the standing charge. Needs root, nftables."
    ),
]


def campaign(
    attacks: list[Attack],
    seed: int | None,
    scale: float,
    seconds: float | None,
    isolated: bool,
    html: Path | None,
    as_json: bool,
) -> None:
    """Run them, show and write what came of it; exit code 1 where an attack beat its charge
    or did not run."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from narrows.cli.console import report_console
    from narrows.cli.outputs import check_places
    from narrows.redteam.report.html import write_html
    from narrows.redteam.report.text import closing, table
    from narrows.redteam.run import Campaign, Result, run

    check_places(html)
    chance = secrets.randbelow(1 << 32) if seed is None else seed
    err = Console(stderr=True, highlight=False)
    err.print(f"seed {chance}")
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=len(attacks))

        def heard(result: Result) -> None:
            progress.advance(task)

        found: Campaign = run(
            attacks,
            chance,
            scale=scale,
            isolated=isolated,
            seconds=seconds,
            say=lambda text: progress.update(task, description=text),
            heard=heard,
        )
    if html is not None:
        write_html(found, html)
        err.print(f"wrote {html}", markup=False)
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    else:
        console = report_console()
        console.print(table(found))
        console.print(closing(found))
    if found.vulnerabilities or found.failures or not found.results:
        raise typer.Exit(1)
