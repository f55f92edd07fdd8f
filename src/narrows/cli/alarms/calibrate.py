"""``narrows alarms calibrate``: how lucky an honest answer is, at least."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: narrows alarms calibrate --answers held-out.jsonl --strong model.narrows "
    "--out null.json; then edge.alarms null = 'null.json'"
)
def calibrate(
    answers: Annotated[Path, typer.Option(help="JSON lines with prompt and response.")],
    out: Annotated[Path, typer.Option(help="Write the null here.")],
    weak: Annotated[str, typer.Option(help="Weak model: a name or an artifact.")] = "default",
    strong: Annotated[str, typer.Option(help="Strong model, same vocabulary.")] = "smollm2-135m",
    tokens: Annotated[int, typer.Option(min=1000, max=10_000_000)] = 20_000,
    margin: Annotated[float, typer.Option(min=1.0, max=10.0, help="Shares are divided by.")] = 1.1,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Draw honest tokens, at T = 1, behind the words of answers that no alarm will be asked about.

    The lower the shares that come out, the more a thief gets away with: compare weak models so.
    """
    from rich.console import Console

    from narrows.alarms.noise import calibrate_noise, null_to_json
    from narrows.cli.bench.detect import pool_of
    from narrows.cli.outputs import check_places
    from narrows.durable import write_whole

    check_places(out)
    with Console(stderr=True).status("starting") as status:
        pool = pool_of(answers, strong, weak, tokens, seed, status.update)
    rows = [[(one.luck_bits, one.room_bits) for one in answer.honest] for answer in pool]
    null = calibrate_noise(rows, margin)
    text = null_to_json(null, len(pool))
    write_whole(out, text.encode() + b"\n")
    if as_json:
        typer.echo(text)
        return
    for rate, share in zip(null.rates, null.shares, strict=True):
        typer.echo(f"  t = {rate:g}: luck of {share:.3f} of the room, at least")
