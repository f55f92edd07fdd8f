"""``narrows alarms ack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)

MAX_NAME_CHARS = 64


@app.command(epilog="Example: narrows alarms ack 3   |   narrows alarms ack --all")
def ack(
    numbers: Annotated[list[int] | None, typer.Argument(help="Numbers of open alarms.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that are open.")] = False,
    by: Annotated[str | None, typer.Option(help="Who has seen it; else the login name.")] = None,
    state: Annotated[Path | None, typer.Option(help="State folder of the edge.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Acknowledge alarms. What they refused is served again within about a second.

    The detectors forget what they held against those keys and begin anew. No budget moves.
    """
    import getpass
    import json
    import sqlite3
    import time
    from contextlib import closing

    from narrows.alarms.store import AlarmStore, alarms_path
    from narrows.deploy.state import existing_state_dir
    from narrows.errors import InputError, NarrowsError

    if bool(numbers) == every:
        raise InputError("say which alarms: numbers, or --all", "'narrows alarms list' shows them")
    who = by if by is not None else getpass.getuser()
    if not 1 <= len(who) <= MAX_NAME_CHARS or not who.isprintable():
        raise InputError(f"--by has 1..{MAX_NAME_CHARS} printable characters")
    folder = existing_state_dir(state)
    if not alarms_path(folder).exists():
        raise InputError(f"no edge has kept alarms in {folder}", "name its --state")
    with closing(AlarmStore(folder)) as store:
        try:
            done = store.acknowledge(None if every else numbers, who, int(time.time()))
        except sqlite3.Error as error:
            raise NarrowsError(f"not acknowledged: {error}", "try again") from error
    if as_json:
        typer.echo(json.dumps({"acknowledged": done}))
    else:
        typer.echo(f"{len(done)} acknowledged" if done else "No alarm was open.")
