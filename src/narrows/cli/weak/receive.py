"""``narrows weak receive``: take an artifact that the enclave exports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.ledger.options import StateOption

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example:  narrows weak receive --config narrows.toml --gate 10.1.0.2:8407 "
    "--at-most 16000000 --out in.narrows"
)
def receive(
    gate: Annotated[str, typer.Option(help="HOST:PORT of the gate's export port.")],
    at_most: Annotated[str, typer.Option(metavar="SIZE", help="What it may cost: 16000000, 16MB.")],
    out: Annotated[Path, typer.Option(help="Artifact to write.")],
    config: Annotated[
        Path | None, typer.Option(help="Configuration with a section edge.tls.")
    ] = None,
    state: StateOption = None,
    json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Read an exported artifact from the gate, which charges every byte of it, and keep a
    receipt, with which 'narrows weak publish --paid' signs it."""
    from narrows.sizes import size_bytes

    at_most_bytes = size_bytes(at_most, "--at-most", least=1)
    import asyncio
    import dataclasses
    import json as json_module
    import time

    from narrows.deploy.config import load_config
    from narrows.deploy.state import state_dir
    from narrows.edge.pull.receive import receive as take
    from narrows.models.registry import progress_bar

    with progress_bar("Receiving") as progress:
        receipt = asyncio.run(
            take(
                load_config(config).edge,
                gate,
                out,
                at_most_bytes=at_most_bytes,
                state_dir=state_dir(state),
                now_s=time.time(),
                progress=progress,
            )
        )
    if json:
        typer.echo(json_module.dumps({"path": str(out)} | dataclasses.asdict(receipt)))
        return
    typer.echo(f"{out}: {receipt.bytes:,} bytes, {receipt.link_bytes:,} paid at the gate")
    typer.echo(f"sha256 {receipt.sha256}")
