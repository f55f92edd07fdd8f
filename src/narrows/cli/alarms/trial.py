"""``narrows alarms test``: does an alarm arrive?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command("test", epilog="Example: narrows alarms test --config narrows.toml")
def trial(
    config: Annotated[Path, typer.Option(help="The edge's configuration file.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Send an alarm that is none to the webhook and the command that edge.alarms names.

    Nothing is filed and nothing refused. Exit code 1 where one of them did not take it.
    """
    import json
    import time

    from narrows.alarms.courier import deliver
    from narrows.alarms.detector import EVERYONE
    from narrows.alarms.store import FiledAlarm
    from narrows.deploy.config import load_config
    from narrows.errors import InputError

    settings = load_config(config).edge.alarms
    if not settings.webhook and not settings.command:
        raise InputError(
            "[edge.alarms] names no webhook and no command", "set one, or read 'narrows status'"
        )
    now_s = int(time.time())
    note = "this is a test: nothing has happened"
    alarm = FiledAlarm(0, "test", "test", EVERYONE, "tell", now_s, now_s, 1, 0.0, note)
    outcome = deliver(settings, alarm.figures(), time.sleep)
    taken = "not taken" not in outcome
    typer.echo(json.dumps({"taken": taken, "outcome": outcome}) if as_json else outcome)
    if not taken:
        raise typer.Exit(1)
