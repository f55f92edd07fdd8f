"""``narrows audit post``: the auditor's credits into the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.console import LogFormatOption
from narrows.cli.ledger.options import PassphraseOption, StateOption, WitnessOption

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: narrows audit post --gate 127.0.0.1:8410 --config narrows.toml "
    "--state STATE --lineage base-1"
)
def post(
    gate: Annotated[str, typer.Option(help="HOST:PORT of the gate's port for verdicts.")],
    lineage: Annotated[str, typer.Option(help="The weight lineage that is audited.")],
    config: Annotated[
        Path | None, typer.Option(help="Configuration with the sections audit and edge.tls.")
    ] = None,
    state: StateOption = None,
    witness: WitnessOption = "",
    operator: Annotated[
        str,
        typer.Option(
            help="Operator's key, a file or a name: with on_alarm = close it revokes the auditor "
            "and lowers the net budget to what is spent."
        ),
    ] = "",
    passphrase_file: PassphraseOption = None,
    log_format: LogFormatOption = "text",
) -> None:
    """Take verdicts through the gate, check them, book their credits. Prints one JSON line.

    The ledger's own rules decide what counts. A refused credit is told and not tried again.
    """
    import asyncio
    import dataclasses
    import json
    import os
    from contextlib import closing, suppress

    from narrows.cli.ledger.options import open_ledger, operator_key
    from narrows.deploy.closing import close_behind_alarm
    from narrows.deploy.config import load_config
    from narrows.deploy.poster import CreditPoster
    from narrows.deploy.poster import post as serve
    from narrows.deploy.state import existing_place
    from narrows.logs import start_logging
    from narrows.wire.address import parse_address

    start_logging("poster", log_format)
    settings = load_config(config)
    audit = settings.audit
    host, port = parse_address(gate)
    edge = dataclasses.replace(settings.edge, gate_host=host, gate_port=port).check()
    place = existing_place(state)
    key = operator_key(operator, place.state_dir, passphrase_file) if operator else None

    def close() -> None:
        with closing(open_ledger(place, witness)) as ledger:
            close_behind_alarm(ledger, lineage, audit.gate, key)

    poster = CreditPoster(
        place,
        lambda: open_ledger(place, witness),
        lineage,
        audit.gate,
        audit.verdict_bytes,
        close if audit.on_alarm == "close" else None,
    )
    typer.echo(json.dumps({"ready": True, "role": "poster", "pid": os.getpid()}))
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(poster, edge, audit.verdict_bytes))
