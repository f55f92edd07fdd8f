"""``narrows redteam run``."""

from __future__ import annotations

from typing import Annotated

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
    epilog="Example: narrows redteam run token-entropy link-ends --seed 1 --html redteam.html. "
    "Exit code 1: an attack beat its charge, or did not run."
)
def run(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Of narrows redteam list.")],
    seed: SeedOption = None,
    scale: ScaleOption = 1.0,
    seconds: SecondsOption = None,
    isolated: IsolatedOption = False,
    html: HtmlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run these attacks against a witness, gate and edge of their own."""
    from narrows.redteam.catalogue import chosen

    campaign(chosen(names), seed, scale, seconds, isolated, html, as_json)
