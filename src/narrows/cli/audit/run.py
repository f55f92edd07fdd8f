"""``narrows audit run``: a recorded tape against the strong model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.audit.options import JsonOption, ModelOption, ScorerOption, WeakOption

app = typer.Typer(add_completion=False)
MAX_SMALL_FILE_BYTES = 4096


@app.command(
    epilog="Example: narrows audit run --tape gate.tape --share 0.05 --key coins.key "
    "--html report.html. The report holds prompts: keep it where the tape is kept."
)
def run(
    tape: Annotated[Path, typer.Option(help="The tape of a gate.")],
    model: ModelOption = "smollm2-135m",
    scorer: ScorerOption = "runtime",
    weak: WeakOption = None,
    share: Annotated[float, typer.Option(help="Share of segments to audit, 0 to 1.")] = 1.0,
    bound_bits: Annotated[int, typer.Option(min=1, help="B: most bits of a segment.")] = 2048,
    delta: Annotated[float, typer.Option(help="Chance that the bound ever fails.")] = 1e-9,
    key: Annotated[Path | None, typer.Option(help="32 secret bytes for the coins.")] = None,
    null: Annotated[
        Path | None, typer.Option(help="The alarm's null, of narrows audit calibrate.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the report here, as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Decode the tape, flip the coins, recompute the answers, say what is explained."""
    import json

    from narrows.alarms.nullfile import from_json
    from narrows.alarms.sequential import Alarm
    from narrows.audit.auditor import Rules, TapeAuditor
    from narrows.audit.choose import scorer_named
    from narrows.audit.page.series import Series, about
    from narrows.audit.report import report, text
    from narrows.audit.share.coins import KEY_BYTES
    from narrows.cli.audit.tapes import opened_tape, weak_models
    from narrows.cli.outputs import check_places
    from narrows.durable import read_once, write_whole
    from narrows.errors import InputError

    check_places(out, html)
    if not 0 < share <= 1 or not 0 < delta < 1:
        raise InputError("--share is above 0 and at most 1, --delta between 0 and 1")
    if share < 1 and key is None:
        raise InputError("a share needs coins that nobody can guess", "--key FILE: 32 bytes")
    coins = bytes(KEY_BYTES) if key is None else read_once(key, MAX_SMALL_FILE_BYTES)
    if len(coins) != KEY_BYTES:
        raise InputError(f"{key} has {len(coins)} bytes, not {KEY_BYTES}")
    alarm = Alarm() if null is None else Alarm(from_json(read_once(null, MAX_SMALL_FILE_BYTES)))
    rules = Rules(share, bound_bits, delta)
    series = Series()
    with opened_tape(tape) as read:
        strong, models = scorer_named(scorer, model), weak_models(weak)
        auditor = TapeAuditor(strong, models, rules, coins, alarm, on_drawn=series.drawn)
        series.follow(auditor)
        read(auditor)
    found = report(auditor) | series.found() | {"model": about(auditor)}
    if out is not None:
        write_whole(out, json.dumps(found, indent=1).encode() + b"\n")
    if html is not None:
        from narrows.audit.page.html import write_html

        write_html(found, html)
    typer.echo(json.dumps(found) if as_json else "\n".join(text(found)))
