"""``narrows key new|list|limit|revoke``: API keys of the edge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from narrows.edge.books.keys import KeyLimits

State = Annotated[Path | None, typer.Option(help="State folder of the edge.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object, for machines.")]
_NONE = "none"


def key_new(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    share: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Code length that it may use in a day: 1000000, 1MB."),
    ] = None,
    month_share: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The same in a month (UTC): 20MB.")
    ] = None,
    rpm: Annotated[int | None, typer.Option(help="Requests a minute.")] = None,
    tpm: Annotated[
        int | None, typer.Option(help="Tokens a minute, of prompts and answers.")
    ] = None,
    concurrent: Annotated[int | None, typer.Option(help="Answers at once.")] = None,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Make an API key. It is shown once: the edge keeps only its hash.

    From the first key on, every request needs one; then the edge may listen beyond loopback.
    All limits are advisory, measured at the edge; only the gate's budget is a hard limit.
    """
    import json
    import time
    from contextlib import closing

    from narrows.deploy.state import state_dir
    from narrows.edge.books.keys import KeyLimits, create_key
    from narrows.edge.books.store import open_database
    from narrows.sizes import size_bytes

    share_bytes = None if share is None else size_bytes(share, "--share", least=1)
    month_bytes = None
    if month_share is not None:
        month_bytes = size_bytes(month_share, "--month-share", least=1)
    limits = KeyLimits(rpm, tpm, concurrent, month_bytes)
    folder = state_dir(state)
    with closing(open_database(folder)) as database:
        key_id, text = create_key(database, name, int(time.time()), share_bytes, limits)
    if as_json:
        typer.echo(json.dumps({"id": key_id, "name": name, "key": text}))
        return
    typer.echo(text)
    typer.echo(f"  number {key_id}, for {name}, in {folder}; it is not shown again", err=True)


def key_list(state: State = None, as_json: Json = False) -> None:
    """List API keys: limits, and the code length that each has used."""
    import dataclasses
    import datetime
    import json
    import time
    from contextlib import closing

    from rich.console import Console
    from rich.table import Table

    from narrows.deploy.state import existing_state_dir
    from narrows.edge.books.keys import KeyLimits, list_keys
    from narrows.edge.books.stats import utc_day
    from narrows.edge.books.store import open_database

    with closing(open_database(existing_state_dir(state))) as database:
        keys = list_keys(database, utc_day(time.time()))
    if as_json:
        typer.echo(json.dumps({"keys": [dataclasses.asdict(key) for key in keys]}))
        return
    table = Table(box=None, pad_edge=False)
    words = ("name", "key", "state")
    for title in ("number", "name", "key", "made", "state", "answers", "bytes today", "of", "ever"):
        table.add_column(title, justify="left" if title in words else "right")
    if any(key.limits != KeyLimits() for key in keys):
        table.add_column("limits", overflow="fold")
    for key in keys:
        made = datetime.datetime.fromtimestamp(key.created_s, datetime.UTC).date().isoformat()
        share = f"{key.share_bytes_per_day:,}" if key.share_bytes_per_day else "any"
        use = f"{key.bits_today / 8:,.0f}", share, f"{key.bits_total / 8:,.0f}"
        status = "revoked" if key.revoked_s else "active"
        if key.from_file:
            status += " (file)"
        shown = key.hint if key.from_file else f"nk-…{key.hint}"
        rest = f"{key.answers:,}", *use, _limits(key.limits)
        row = (str(key.key_id), key.name, shown, made, status, *rest)
        table.add_row(*row[: len(table.columns)])
    Console(highlight=False).print(table if keys else "no keys: the edge serves loopback only")


def _limits(limits: KeyLimits) -> str:
    said = [
        f"{value:,} {unit}"
        for value, unit in (
            (limits.rpm, "rpm"),
            (limits.tpm, "tpm"),
            (limits.concurrent, "at once"),
            (limits.share_bytes_per_month, "bytes a month"),
        )
        if value is not None
    ]
    return ", ".join(said) or "none"


def key_limit(
    key: Annotated[
        str, typer.Argument(metavar="NAME|NUMBER", help="The key, see narrows key list.")
    ],
    share: Annotated[
        str | None, typer.Option(metavar="SIZE|none", help="Code length a day.")
    ] = None,
    month_share: Annotated[
        str | None, typer.Option(metavar="SIZE|none", help="The same in a month (UTC).")
    ] = None,
    rpm: Annotated[str | None, typer.Option(metavar="N|none", help="Requests a minute.")] = None,
    tpm: Annotated[str | None, typer.Option(metavar="N|none", help="Tokens a minute.")] = None,
    concurrent: Annotated[
        str | None, typer.Option(metavar="N|none", help="Answers at once.")
    ] = None,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Change what an API key may do, from its next request on. What is not named stays."""
    import dataclasses
    import json
    from contextlib import closing

    from narrows.deploy.state import existing_state_dir
    from narrows.edge.books.keys import change_limits, find_named, list_keys
    from narrows.edge.books.store import open_database
    from narrows.errors import InputError

    given = {"rpm": rpm, "tpm": tpm, "concurrent": concurrent}
    changes = {name: _number(name, text) for name, text in given.items() if text is not None}
    if month_share is not None:
        changes["share_bytes_per_month"] = _size(month_share, "--month-share")
    if share is None and not changes:
        raise InputError("no limit is named", "see narrows key limit --help")
    with closing(open_database(existing_state_dir(state))) as database:
        number = find_named(database, key)
        (known,) = [one for one in list_keys(database, "") if one.key_id == number]
        limits = dataclasses.replace(known.limits, **changes)
        share_bytes = known.share_bytes_per_day
        if share is not None:
            share_bytes = _size(share, "--share")
        change_limits(database, number, share_bytes, limits)
    if as_json:
        facts = {"id": number, "share_bytes_per_day": share_bytes}
        typer.echo(json.dumps(facts | {"limits": dataclasses.asdict(limits)}))
        return
    daily = "any share" if share_bytes is None else f"{share_bytes:,} bytes a day"
    typer.echo(f"key {number}: {daily}; limits: {_limits(limits)}")


def _size(text: str, option: str) -> int | None:
    from narrows.sizes import size_bytes

    return None if text == _NONE else size_bytes(text, option, least=1)


def _number(name: str, text: str) -> int | None:
    from narrows.errors import InputError

    if text == _NONE:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise InputError(f"--{name} {text[:20]!r} is no number", "a number of at least 1, or none")
    return int(text)


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
