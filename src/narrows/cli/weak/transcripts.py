"""``narrows weak transcripts``: what the edge kept of released answers; redact, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.ledger.options import JsonOption, StateOption

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Released answers that the edge kept, where its edge.transcripts says keep = true.",
)


@app.command(epilog="Example: narrows weak transcripts show --json")
def show(state: StateOption = None, as_json: JsonOption = False) -> None:
    """Days, answers and bytes that are kept."""
    import json

    from narrows.edge.books.transcripts import reading

    days: dict[str, dict[str, int]] = {}
    folder = _folder(state)
    with reading(folder) as files:
        for path in files:
            day = days.setdefault(path.name[:10], {"answers": 0, "bytes": 0})
            data = path.read_bytes()
            day["answers"] += data.count(b"\n")
            day["bytes"] += len(data)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "days": days}))
        return
    for name, day in days.items():
        typer.echo(f"{name}  {day['answers']:>8,} answers  {day['bytes']:>14,} bytes")
    typer.echo(f"in {folder}", err=True)


@app.command(
    epilog="Examples: narrows weak transcripts redact --id chatcmpl-...   |   "
    "narrows weak transcripts redact --key 3 --file data/train.jsonl"
)
def redact(
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="Id of an answer, as its client got it.")
    ] = None,
    keys: Annotated[
        list[int] | None, typer.Option("--key", help="Number of an API key: all answers so far.")
    ] = None,
    also: Annotated[
        list[Path] | None, typer.Option("--file", help="Imported JSONL to redact too; repeatable.")
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take answers out for good, the ones under way included. May be repeated.

    Models that have learned from them are not changed; their data digests say which these are.
    """
    import json
    import time

    from narrows.edge.books.transcripts import redact as take_out
    from narrows.edge.books.transcripts import redact_file
    from narrows.errors import InputError

    if not ids and not keys:
        raise InputError("nothing to redact", "name answers with --id, or API keys with --key")
    now_s = time.time()
    gone = take_out(_folder(state), ids=ids or [], keys=keys or [], now_s=now_s)
    notes: list[dict[str, object]] = [{"id": one} for one in ids or []]
    notes += [{"key": one, "at_s": int(now_s)} for one in keys or []]
    for path in also or []:
        try:
            gone += redact_file(path, notes)
        except OSError as error:
            raise InputError(f"cannot redact {path}: {error.strerror}") from error
    typer.echo(json.dumps({"redacted": gone}) if as_json else f"{gone} answers are gone")


@app.command(
    epilog="Examples: narrows weak transcripts export --out all.jsonl   |   "
    "narrows weak transcripts export --out all.parquet"
)
def export(
    out: Annotated[Path, typer.Option(help="File to write: .jsonl, or .parquet (needs pyarrow).")],
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy what is kept into one file, readable by its owner alone."""
    import json

    from narrows.edge.books.transcripts import reading
    from narrows.models.registry import progress_bar
    from narrows.training.corpus.export import export_rows

    with reading(_folder(state)) as files, progress_bar("Exporting") as progress:
        rows = export_rows(files, out, progress)
    typer.echo(
        json.dumps({"path": str(out), "answers": rows}) if as_json else f"{out}: {rows} answers"
    )


def _folder(state: Path | None) -> Path:
    from narrows.deploy.state import existing_state_dir
    from narrows.edge.books.transcripts import transcripts_dir
    from narrows.errors import InputError

    folder = transcripts_dir(existing_state_dir(state))
    if not folder.is_dir():
        raise InputError(
            f"there are no transcripts in {folder}", "set [edge.transcripts] keep = true"
        )
    return folder
