"""``narrows audit serve``: the auditor as a role."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.console import LogFormatOption

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: narrows audit serve --config narrows.toml. It reads the spool that the gate "
    "writes and answers at the gate's port for verdicts; nothing else of it leaves."
)
def serve(
    config: Annotated[Path, typer.Option(help="Configuration with the section audit.")],
    listen: Annotated[
        str, typer.Option(help="HOST:PORT where the gate finds it; port 0 takes a free one.")
    ] = "",
    log_format: LogFormatOption = "text",
) -> None:
    """Follow a gate's tape, recompute answers, sign credits, say one verdict a period.

    Prints one JSON line when it listens. Killed at any moment it goes on where it was: nothing
    is credited twice and no coin is drawn again.
    """
    import dataclasses
    import json

    from narrows.audit.role.keys import load_auditor_keys
    from narrows.audit.role.serve import build, read_mandate, run
    from narrows.deploy.config import load_config
    from narrows.errors import InputError
    from narrows.logs import start_logging
    from narrows.private import private_folder
    from narrows.wire.spool import SpoolReader

    start_logging("audit", log_format)
    section = load_config(config).audit
    if listen:
        section = dataclasses.replace(section, listen=listen)
    missing = [
        name for name in ("spool", "keys", "enrolment", "journal") if getattr(section, name) is None
    ]
    if section.keys is None or section.enrolment is None or section.journal is None or missing:
        raise InputError(
            f"[audit] does not say {', '.join(missing)}", "see docs/audit.md, The auditor as a role"
        )
    private_folder(section.journal)
    mandate = read_mandate(section.enrolment, section.gate)
    role = build(section, mandate, load_auditor_keys(section.keys), SpoolReader)
    run(role, section, lambda facts: typer.echo(json.dumps(facts)))
