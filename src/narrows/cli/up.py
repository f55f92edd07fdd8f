"""``narrows up``: all roles on loopback, one command, one Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Examples:  narrows up   |   narrows up --state ./try --budget 2000 --port 9000"
)
def up(
    config: Annotated[Path | None, typer.Option(help="Configuration file.")] = None,
    state: Annotated[Path | None, typer.Option(help="State folder.")] = None,
    budget: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Bytes of the demonstration budget, for a state folder without a ledger. "
            "It never changes an existing one.",
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the API on 127.0.0.1.")
    ] = None,
    isolated: Annotated[
        bool,
        typer.Option(
            "--isolated",
            help="Lock the enclave up: own user, processes, mounts and network, one neighbour "
            "(the gate). Needs root, bubblewrap, iproute2, nftables.",
        ),
    ] = False,
) -> None:
    """Serve the strong model through the gate, everything on this machine.

    The first run imports the model and compiles kernels; later ones start in seconds. Stop it
    with Ctrl-C.

    With --isolated, an upstream server has to run inside, beside the enclave: its url is
    http://127.0.0.1:PORT/v1, and the section enclave.isolated has its command and what it may
    read and use (docs/deploy.md). A server elsewhere would be a second neighbour and is refused.
    """
    if isolated:
        from narrows.deploy.isolated import IsolatedDeployment

        IsolatedDeployment.prepare(config, state, budget, port).run()
        return
    from narrows.deploy.local import LocalDeployment

    LocalDeployment.prepare(config, state, budget, port).run()
