"""``narrows audit show``: a report that a run has written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.audit.options import JsonOption

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: narrows audit show report.json --html report.html")
def show(
    report: Annotated[Path, typer.Argument(help="Written by narrows audit run --out.")],
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What was explained, what was not, and the worst answers with their prompts."""
    import json

    from narrows.audit.page.reader import read_report
    from narrows.audit.report import text

    found = read_report(report)
    if html is not None:
        from narrows.audit.page.html import write_html

        write_html(found, html)
    typer.echo(json.dumps(found) if as_json else "\n".join(text(found)))
