"""``narrows witness``: the independent party that cosigns the ledger's heads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from narrows.cli.console import LogFormatOption
from narrows.cli.ledger.options import PassphraseOption, StateOption
from narrows.errors import InputError

if TYPE_CHECKING:
    from narrows.ledger.witness.witness import Witness

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: narrows witness --state DIR --listen 10.0.0.2:8404")
def witness(
    state: StateOption = None,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT; port 0 takes a free one.")
    ] = "127.0.0.1:0",
    config: Annotated[
        Path | None, typer.Option(help="Taken as by the other roles; it has nothing for this one.")
    ] = None,
    init: Annotated[
        bool, typer.Option("--init", help="Make the witness's key and store, print the key.")
    ] = False,
    follow: Annotated[
        Path | None,
        typer.Option(help="Follow the log of a file that 'narrows ledger init' wrote."),
    ] = None,
    passphrase_file: PassphraseOption = None,
    log_format: LogFormatOption = "text",
) -> None:
    """Cosign heads that extend those seen before; run it on another machine in production.

    Prints one JSON line when it listens. It never sees budget keys, bytes or answers: only
    sizes, hashes and sums.
    """
    from narrows.cli.ledger.options import passphrase
    from narrows.deploy.state import state_dir
    from narrows.ledger.office.setup import create_witness, open_witness, read_log_file
    from narrows.logs import start_logging
    from narrows.wire.address import parse_address

    start_logging("witness", log_format)
    folder, secret = state_dir(state), passphrase(passphrase_file)
    if init:
        typer.echo(create_witness(folder, secret).hex())
        return
    opened = open_witness(folder, passphrase=secret)
    if follow is not None:
        origin, log_key, operators = read_log_file(follow)
        opened.add_log(origin, log_key, operators)
        typer.echo(f"following {origin}")
        return
    if not opened.logs():
        raise InputError("the witness follows no log", "narrows witness --follow FILE")
    _serve(opened, parse_address(listen))


def _serve(opened: Witness, address: tuple[str, int]) -> None:
    import contextlib
    import json
    import signal
    import socket

    from narrows.errors import PeerError
    from narrows.ledger.witness.server import WitnessServer

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    if ":" in address[0]:
        WitnessServer.address_family = socket.AF_INET6
    try:
        server = WitnessServer(address, opened)
    except OSError as error:
        raise PeerError(f"cannot listen on {address[0]}:{address[1]}: {error}") from error
    facts = {
        "ready": True,
        "role": "witness",
        "host": address[0],
        "port": server.server_address[1],
        "key": opened.verifier.public.hex(),
        "vkey": opened.verifier.vkey(),
    }
    with server, contextlib.closing(opened), contextlib.suppress(KeyboardInterrupt):
        typer.echo(json.dumps(facts))
        server.serve_forever()
