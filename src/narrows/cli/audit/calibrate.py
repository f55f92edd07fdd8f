"""``narrows audit calibrate``: the alarm's null, from tapes that are known to be honest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.audit.options import JsonOption, ModelOption, ScorerOption, WeakOption

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: narrows audit calibrate --tape held-out.tape --out null.json. "
    "Use tapes that no alarm will be asked about."
)
def calibrate(
    tape: Annotated[list[Path], typer.Option(help="Honest tapes; may be given again.")],
    out: Annotated[Path, typer.Option(help="Write the null here.")],
    model: ModelOption = "smollm2-135m",
    scorer: ScorerOption = "runtime",
    weak: WeakOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score every segment of honest tapes; write how much an honest engine may be charged."""
    from contextlib import ExitStack

    from narrows.alarms.nullfile import to_json
    from narrows.alarms.sequential import calibrate as fit
    from narrows.audit.auditor import Drawn, Rules, TapeAuditor
    from narrows.audit.choose import scorer_named
    from narrows.audit.code import ONE_BIT
    from narrows.audit.share.coins import KEY_BYTES
    from narrows.cli.audit.tapes import opened_tape, weak_models
    from narrows.cli.outputs import check_places
    from narrows.durable import write_whole
    from narrows.errors import InputError

    check_places(out)
    charges: list[tuple[float, int]] = []

    def keep(drawn: Drawn) -> None:
        if drawn.audit_q16 is not None:
            charges.append((drawn.audit_q16 / ONE_BIT, drawn.tokens))

    with ExitStack() as stack:
        reads = [stack.enter_context(opened_tape(path)) for path in tape]
        strong, models = scorer_named(scorer, model), weak_models(weak)
        for read in reads:
            read(TapeAuditor(strong, models, Rules(), bytes(KEY_BYTES), on_drawn=keep))
    try:
        null = fit(charges)
    except ValueError as error:
        raise InputError(f"the tapes hold too little: {error}") from error
    text = to_json(null, len(charges), sum(tokens for _, tokens in charges))
    write_whole(out, text.encode() + b"\n")
    if as_json:
        typer.echo(text)
        return
    for rate, slack in zip(null.rates, null.slacks, strict=True):
        typer.echo(f"  t = {rate:g}: {slack / rate:.4f} bits a token are allowed")
