"""``narrows up``: all roles on loopback, one command, one Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.console import LogFormatOption

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Examples:  narrows up   |   narrows up --state ./try --budget 2MB --port 9000   |   "
    "narrows up --audit   |   "
    "narrows up --upstream-url http://127.0.0.1:8000/v1 --upstream-model llama-3.1-8b"
)
def up(
    config: Annotated[Path | None, typer.Option(help="Configuration file.")] = None,
    state: Annotated[Path | None, typer.Option(help="State folder.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="The demonstration budget (2000000, 2MB), for a state folder without a ledger. "
            "It never changes an existing one.",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address where the API listens; beyond loopback it needs API keys."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the API, on 127.0.0.1 without --host."),
    ] = None,
    upstream_url: Annotated[
        str | None,
        typer.Option(help="OpenAI-compatible server with the strong model, up to /v1."),
    ] = None,
    upstream_model: Annotated[str | None, typer.Option(help="Model name at that server.")] = None,
    isolated: Annotated[
        bool,
        typer.Option(
            "--isolated",
            help="Lock the enclave up: own user, processes, mounts and network, one neighbour "
            "(the gate). Needs root, bubblewrap, iproute2, nftables.",
        ),
    ] = False,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit",
            help="Run an auditor of the built-in model beside it: what it explains comes back to "
            "the demonstration's net budget.",
        ),
    ] = False,
    metrics: Annotated[
        bool,
        typer.Option(
            "--metrics",
            help="Run the exporter for Prometheus beside it, at its configured address.",
        ),
    ] = False,
    log_format: LogFormatOption = "text",
) -> None:
    """Serve the strong model through the gate, everything on this machine.

    The first run imports the model and compiles kernels; later ones start in seconds. Stop it
    with Ctrl-C.

    With --isolated, an upstream server has to run inside, beside the enclave: its url is
    http://127.0.0.1:PORT/v1, and the section enclave.isolated has its command and what it may
    read and use (docs/deploy.md). A server elsewhere would be a second neighbour and is refused.

    With --audit, the demonstration's ledger gets a net budget and an enrolled auditor, which
    recomputes every answer (docs/audit.md). It shares this machine with the enclave, so it shows
    what an audit does and protects nothing. With --isolated it is another user in a sandbox of its
    own, and its only neighbour is the gate, too.
    """
    import os

    from narrows.logs import LOG_FORMAT
    from narrows.sizes import size_bytes

    os.environ[LOG_FORMAT] = log_format  # the roles'

    budget_bytes = None if budget is None else size_bytes(budget, "--budget", least=1)
    from narrows.deploy.local import Flags, LocalDeployment
    from narrows.enclave.config import UpstreamFlags

    upstream = UpstreamFlags(upstream_url, upstream_model)
    flags = Flags(budget_bytes, host, port, upstream, audit, metrics)
    if isolated:
        from narrows.deploy.isolated import IsolatedDeployment

        IsolatedDeployment.prepare(config, state, flags).run()
        return
    LocalDeployment.prepare(config, state, flags).run()
