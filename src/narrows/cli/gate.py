"""``narrows gate``: the role that meters every byte that leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.console import LogFormatOption
from narrows.errors import InputError

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: narrows gate --state DIR --listen 127.0.0.1:8402 --enclave 127.0.0.1:8401"
)
def gate(
    state: Annotated[
        Path | None,
        typer.Option(help="Folder with the ledger; else the user's state folder."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="The configuration of all roles.")] = None,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT for the edge; port 0 takes a free one.")
    ] = "",
    enclave: Annotated[str, typer.Option(help="HOST:PORT of the enclave.")] = "",
    account: Annotated[str, typer.Option(help="The ledger account of that port.")] = "answers",
    witness: Annotated[str, typer.Option(help="HOST:PORT of the ledger's witness.")] = "",
    witness_key: Annotated[str, typer.Option(help="Its public key, 64 hex digits.")] = "",
    log_format: LogFormatOption = "text",
) -> None:
    """Relay enclave to edge, every byte paid from the ledger before it is sent.

    Prints one JSON line when it listens. With --listen and --enclave it serves that one port;
    else the ports that the configuration names: --config, or STATE/narrows.toml. Only loopback
    needs no TLS.
    """
    import dataclasses
    import json

    from narrows.deploy.state import config_file, ledger_place, state_dir
    from narrows.gate.main import serve, single_port
    from narrows.logs import line_printer, start_logging

    start_logging("gate", log_format)
    if bool(listen) != bool(enclave):
        raise InputError("--listen and --enclave belong together")
    folder = state_dir(state)
    config = config if config is not None else config_file(folder)
    if listen:
        chosen = single_port(listen, enclave, account)
        if ledger_place(folder).etcd is not None:
            raise InputError(
                "a ledger in etcd needs a gate with a name", "give --config instead of --listen"
            )
    elif config is not None:
        from narrows.deploy.gate_section import load_gate

        chosen = load_gate(config)
    else:
        raise InputError("the gate has no port", "give --config, or --listen and --enclave")
    if witness:
        chosen = dataclasses.replace(chosen, witness=witness, witness_key=witness_key)
    say = line_printer("gate", log_format)
    serve(chosen, folder, lambda facts: typer.echo(json.dumps(facts)), say)
