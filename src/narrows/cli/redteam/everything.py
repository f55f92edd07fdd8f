"""``narrows redteam all``."""

from __future__ import annotations

import typer

from narrows.cli.audit.options import JsonOption
from narrows.cli.redteam.options import (
    HtmlOption,
    IsolatedOption,
    ScaleOption,
    SecondsOption,
    SeedOption,
    campaign,
)

app = typer.Typer(add_completion=False)


@app.command(
    "all",
    epilog="Example: narrows redteam all --isolated --json. "
    "Exit code 1: an attack beat its charge, or did not run.",
)
def run_all(
    seed: SeedOption = None,
    scale: ScaleOption = 1.0,
    seconds: SecondsOption = None,
    isolated: IsolatedOption = False,
    html: HtmlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run every attack against a witness, gate and edge of their own."""
    from narrows.redteam.catalogue import every_attack

    campaign(every_attack(), seed, scale, seconds, isolated, html, as_json)
