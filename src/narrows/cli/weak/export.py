"""``narrows weak export``: an artifact out of the enclave, for its full price."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Examples:  narrows weak export inside.narrows   |   "
    "narrows weak export inside.narrows --listen 10.2.0.1:8404"
)
def export(
    file: Annotated[Path, typer.Argument(help="The artifact, inside.")],
    listen: Annotated[
        str | None, typer.Option(help="host:port where the gate's export port connects.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Say what exporting an artifact costs, or (--listen) serve it to the gate, once.

    Weak models flow inward. One that was made inside is an export, charged in full, whatever
    its provenance says: each of its bytes leaves through a gate port with an account of its own.
    """
    import asyncio
    import json as json_module

    from narrows.enclave.export import price_bytes, send_once
    from narrows.models.artifact import Artifact
    from narrows.models.registry import progress_bar
    from narrows.wire.address import parse_address

    artifact = Artifact.open(file)
    price = price_bytes(file)
    if listen is None:
        if json:
            typer.echo(json_module.dumps({"sha256": artifact.digest.hex(), "price_bytes": price}))
            return
        typer.echo(f"{file.name} costs {price:,} bytes of budget, timing and TLS not included.")
        grant = price * 102 // 100 + 65536
        typer.echo(
            "  1. operators grant it: narrows budget propose --lineage L --lifetime TOTAL "
            f"--account answers --account exports:lifetime={grant} --out export.json, with an "
            "--account for each one that stays: an account that is not named is closed "
            "(narrows budget show); k of n sign; apply\n"
            "  2. gate: a port of its own, [[gate.ports]] name = 'exports', account = 'exports'\n"
            f"  3. inside: narrows weak export {file} --listen HOST:PORT\n"
            f"  4. outside: narrows weak receive --gate HOST:PORT --at-most {price} --out FILE\n"
            "  5. outside: narrows weak publish FILE --key NAME --paid\n"
            "Training on transcripts outside costs nothing: see narrows weak data, weak train."
        )
        return
    host, port = parse_address(listen)

    def listening(bound: int) -> None:
        typer.echo(json_module.dumps({"ready": True, "port": bound, "price_bytes": price}))

    with progress_bar("Exporting") as progress:
        asyncio.run(send_once(file, host, port, listening, progress))
