"""``narrows telemetry``: the enclave's logs and figures, through the gate, on their account."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(epilog="Example:  narrows telemetry --gate 127.0.0.1:8406")
def telemetry(
    gate: Annotated[str, typer.Option(help="HOST:PORT of the gate's telemetry port.")],
    config: Annotated[
        Path | None, typer.Option(help="Configuration with a section edge.tls.")
    ] = None,
) -> None:
    """Print what the enclave reports, as it comes, until the link closes.

    Every byte of it is charged to the account of that port. Lines are the enclave's words:
    anything that could drive your terminal is shown as an escape.
    """
    import asyncio

    from narrows.deploy.config import load_config
    from narrows.edge.pull.telemetry import read_lines

    async def show() -> None:
        async for line in read_lines(load_config(config).edge, gate):
            typer.echo(line)

    asyncio.run(show())
