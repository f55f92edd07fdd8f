"""``narrows tape ship``: the gate's end of a haul, in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.tape.options import CertOption, KeyOption, PeerOption
from narrows.errors import InputError

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: narrows tape ship --config narrows.toml --to 10.3.0.2:8411 "
    "--cert-file gate.crt --key-file gate.key --peer-file auditor.crt"
)
def ship(
    to: Annotated[str, typer.Option(help="HOST:PORT of 'narrows tape receive'.")],
    config: Annotated[
        Path | None, typer.Option(help="The gate's configuration, which names the folder.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="The spool's folder instead.")] = None,
    cert_file: CertOption = None,
    key_file: KeyOption = None,
    peer_file: PeerOption = None,
    once: Annotated[
        bool, typer.Option("--once", help="Send what is there, see it taken, and end.")
    ] = False,
) -> None:
    """Send a gate's sealed spool to its auditor's machine, as it grows.

    It reads the spool and writes nothing: killed, cut off or slow, it changes nothing of the gate,
    and goes on where the other side has ended. It cannot open what it sends. Exit code 6 with
    --once where the other side is away.
    """
    import json
    import signal
    import threading

    from narrows.cli.tape.options import say, tls_files
    from narrows.deploy.gate_section import load_gate
    from narrows.wire.address import parse_address
    from narrows.wire.spool.ship import ship as carry
    from narrows.wire.spool.ship import ship_once

    address = parse_address(to)
    tls = tls_files(address[0], cert_file, key_file, peer_file)
    if (config is None) == (folder is None):
        raise InputError("the spool is not named", "give --config or --folder")
    if config is not None:
        tape = load_gate(config).tape
        if tape is None:
            raise InputError(f"{config} has no [gate.tape]", "see docs/gate.md, The tape")
        folder = tape.folder
    if folder is None:
        return
    if once:
        typer.echo(json.dumps({"sent_bytes": ship_once(folder, address, tls)}))
        return
    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ending.set())
    carry(folder, address, tls, say, ending)
