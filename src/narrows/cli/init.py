"""``narrows init``: keys and configuration of a deployment on several machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example:  narrows init deploy --gate 10.1.0.2:8402 --enclave 10.2.0.1:8401 "
    "--edge 0.0.0.0:8400"
)
def init(
    folder: Annotated[Path, typer.Argument(help="New folder for one subfolder a machine.")],
    gate: Annotated[
        str, typer.Option(help="HOST:PORT of the gate on the edge's side.")
    ] = "127.0.0.1:8402",
    state_port: Annotated[
        int, typer.Option(min=1, max=65535, help="The gate's state port, on the same host.")
    ] = 8403,
    enclave: Annotated[
        str, typer.Option(help="HOST:PORT of the enclave on the gate's cable.")
    ] = "127.0.0.1:8401",
    edge: Annotated[str, typer.Option(help="HOST:PORT where the API listens.")] = "127.0.0.1:8400",
) -> None:
    """Make pinned TLS keys for gate and edge, and a configuration for each machine.

    Each private key lies in the subfolder of the machine it belongs to: copy enclave/, gate/
    and edge/ to theirs, and delete the rest. Ledger, witness and operator keys are made where
    they stay: 'narrows key operator new', 'narrows ledger init', 'narrows witness --init'.
    """
    from narrows.deploy.files import write_deployment

    for path in write_deployment(folder, gate, state_port, enclave, edge):
        typer.echo(path)
