"""``narrows key new|list|revoke``: API keys of the edge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

State = Annotated[Path | None, typer.Option(help="State folder of the edge.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object, for machines.")]


def key_new(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    share: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Code length that it may use in a day: 1000000, 1MB."),
    ] = None,
    month_share: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The same in a month (UTC): 20MB.")
    ] = None,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Make an API key. It is shown once: the edge keeps only its hash.

    From the first key on, every request needs one; then the edge may listen beyond loopback.
    A share is advisory, measured at the edge; only the gate's budget is a hard limit.
    """
    import json
    import time
    from contextlib import closing

    from narrows.deploy.state import state_dir
    from narrows.edge.books.keys import create_key, set_month_share
    from narrows.edge.books.store import open_database
    from narrows.sizes import size_bytes

    share_bytes = None if share is None else size_bytes(share, "--share", least=1)
    month_bytes = None
    if month_share is not None:
        month_bytes = size_bytes(month_share, "--month-share", least=1)
    folder = state_dir(state)
    with closing(open_database(folder)) as database:
        key_id, text = create_key(database, name, int(time.time()), share_bytes)
        if month_bytes is not None:
            set_month_share(database, key_id, month_bytes)
    if as_json:
        typer.echo(json.dumps({"id": key_id, "name": name, "key": text}))
        return
    typer.echo(text)
    typer.echo(f"  number {key_id}, for {name}, in {folder}; it is not shown again", err=True)


def key_list(state: State = None, as_json: Json = False) -> None:
    """List API keys: shares, and the code length that each has used."""
    import dataclasses
    import datetime
    import json
    import time
    from contextlib import closing

    from rich.console import Console
    from rich.table import Table

    from narrows.deploy.state import existing_state_dir
    from narrows.edge.books.keys import list_keys
    from narrows.edge.books.stats import utc_day
    from narrows.edge.books.store import open_database

    with closing(open_database(existing_state_dir(state))) as database:
        keys = list_keys(database, utc_day(time.time()))
    if as_json:
        typer.echo(json.dumps({"keys": [dataclasses.asdict(key) for key in keys]}))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("number", "name", "key", "made", "state", "answers", "bytes today", "of", "ever"):
        table.add_column(title, justify="left" if title in ("name", "key", "state") else "right")
    for key in keys:
        made = datetime.datetime.fromtimestamp(key.created_s, datetime.UTC).date().isoformat()
        share = f"{key.share_bytes_per_day:,}" if key.share_bytes_per_day else "any"
        use = f"{key.bits_today / 8:,.0f}", share, f"{key.bits_total / 8:,.0f}"
        status = "revoked" if key.revoked_s else "active"
        table.add_row(
            str(key.key_id), key.name, f"nk-…{key.hint}", made, status, f"{key.answers:,}", *use
        )
    Console(highlight=False).print(table if keys else "no keys: the edge serves loopback only")


def key_revoke(
    key: Annotated[
        str, typer.Argument(metavar="NAME|NUMBER", help="The key, see narrows key list.")
    ],
    state: State = None,
    as_json: Json = False,
) -> None:
    """Revoke an API key, from the next request on. It stays listed.

    A name that several active keys have is refused: give the number then.
    """
    import json
    import time
    from contextlib import closing

    from narrows.deploy.state import existing_state_dir
    from narrows.edge.books.keys import find_named, revoke_key
    from narrows.edge.books.store import open_database

    with closing(open_database(existing_state_dir(state))) as database:
        number = find_named(database, key)
        revoke_key(database, number, int(time.time()))
    typer.echo(json.dumps({"revoked": number}) if as_json else f"key {number} is revoked")
