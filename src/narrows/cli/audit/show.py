"""``narrows audit show``: a report that a run has written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.audit.options import JsonOption

app = typer.Typer(add_completion=False)
MAX_REPORT_BYTES = 1 << 24


@app.command(epilog="Example: narrows audit show report.json")
def show(
    report: Annotated[Path, typer.Argument(help="Written by narrows audit run --out.")],
    as_json: JsonOption = False,
) -> None:
    """What was explained, what was not, and the worst answers with their prompts."""
    import json

    from narrows.audit.report import text
    from narrows.durable import read_once
    from narrows.errors import InputError

    try:
        found = json.loads(read_once(report, MAX_REPORT_BYTES))
        lines = text(found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{report} is no report of narrows audit run") from error
    typer.echo(json.dumps(found) if as_json else "\n".join(lines))
