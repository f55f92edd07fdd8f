"""``narrows audit run``: a recorded tape against the strong model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)
READ_BYTES = 1 << 20
MAX_KEY_FILE_BYTES = 1024


@app.command(
    epilog="Example: narrows audit run --tape gate.tape --share 0.05 --key coins.key --json. "
    "The report holds prompts: keep it where the tape is kept."
)
def run(
    tape: Annotated[Path, typer.Option(help="The tape of a gate.")],
    model: Annotated[
        str, typer.Option(help="The strong model: smollm2-135m, an artifact, a folder or a hub id.")
    ] = "smollm2-135m",
    scorer: Annotated[
        str, typer.Option(help="runtime (exact) or torch (transformers, float32).")
    ] = "runtime",
    weak: Annotated[
        list[str] | None, typer.Option(help="Weak models of the links. Default: default.")
    ] = None,
    share: Annotated[float, typer.Option(help="Share of segments to audit, 0 to 1.")] = 1.0,
    bound_bits: Annotated[int, typer.Option(min=1, help="B: most bits of a segment.")] = 2048,
    delta: Annotated[float, typer.Option(help="Chance that the bound ever fails.")] = 1e-9,
    key: Annotated[Path | None, typer.Option(help="32 secret bytes for the coins.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the report here, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Decode the tape, flip the coins, recompute the answers, say what is explained."""
    import json

    from narrows.audit.auditor import Auditor, Rules
    from narrows.audit.choose import scorer_named
    from narrows.audit.report import report, text
    from narrows.audit.share.coins import KEY_BYTES
    from narrows.durable import read_once, write_whole
    from narrows.errors import InputError
    from narrows.models.registry import load_model

    if not 0 < share <= 1 or not 0 < delta < 1:
        raise InputError("--share is above 0 and at most 1, --delta between 0 and 1")
    if share < 1 and key is None:
        raise InputError("a share needs coins that nobody can guess", "--key FILE: 32 bytes")
    coins = bytes(KEY_BYTES) if key is None else read_once(key, MAX_KEY_FILE_BYTES)
    if len(coins) != KEY_BYTES:
        raise InputError(f"{key} has {len(coins)} bytes, not {KEY_BYTES}")
    models = [load_model(name) for name in weak or ["default"]]
    auditor = Auditor(
        scorer_named(scorer, model),
        {one.digest: one for one in models},
        Rules(share, bound_bits, delta),
        coins,
    )
    try:
        with tape.open("rb") as file:
            while data := file.read(READ_BYTES):
                auditor.feed(data)
    except OSError as error:
        raise InputError(f"cannot read {tape}: {error.strerror}") from error
    auditor.replay.close()
    found = report(auditor)
    if out is not None:
        write_whole(out, json.dumps(found, indent=1).encode() + b"\n")
    typer.echo(json.dumps(found) if as_json else "\n".join(text(found)))
