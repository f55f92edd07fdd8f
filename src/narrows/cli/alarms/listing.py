"""``narrows alarms list``."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)


@app.command("list", epilog="Example: narrows alarms list --all --json")
def list_(
    state: Annotated[Path | None, typer.Option(help="State folder of the edge.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Acknowledged ones too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Open alarms, newest first. Exit code 0 whether or not there are any."""
    import json

    from narrows.deploy.state import existing_state_dir

    found = alarm_figures(existing_state_dir(state), open_only=not every)
    if as_json:
        typer.echo(json.dumps({"alarms": found}))
        return
    if not found:
        typer.echo("No alarm is open." if not every else "There was never an alarm.")
        return
    for one in found:
        since = datetime.datetime.fromtimestamp(one["raised_s"], datetime.UTC)
        whose = one["key_name"] or ("all answers" if one["key"] is None else f"key {one['key']}")
        does = one["policy"] if one["acked_s"] is None else f"acknowledged by {one['acked_by']}"
        typer.echo(
            f"{one['id']}  {one['detector']}, {whose}, since {since:%Y-%m-%d %H:%M} UTC, "
            f"{one['count']} times, {does}"
        )
        typer.echo("   " + "; ".join(filter(None, (one["note"], one["sent"]))))
    typer.echo("'narrows alarms ack NUMBER' acknowledges one; docs/detection.md says what to do.")


def alarm_figures(folder: Path, open_only: bool) -> list[dict[str, Any]]:
    """As ``FiledAlarm.figures``, with ``key_name``: the API key's name, None without one."""
    from narrows.alarms.store import read_alarms
    from narrows.edge.books.keys import key_names
    from narrows.edge.books.store import reading

    found: list[dict[str, Any]] = [one.figures() for one in read_alarms(folder, open_only)]
    with reading(folder) as database:
        names = {} if database is None else key_names(database)
    return [one | {"key_name": names.get(one["key"])} for one in found]
