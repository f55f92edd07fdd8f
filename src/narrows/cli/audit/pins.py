"""``narrows audit pins``: the digest that operators sign into an enrolment."""

from __future__ import annotations

import typer

from narrows.cli.audit.options import JsonOption, ModelOption, ScorerOption

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: narrows audit pins --model smollm2-135m")
def pins(
    model: ModelOption = "smollm2-135m",
    scorer: ScorerOption = "runtime",
    as_json: JsonOption = False,
) -> None:
    """Print the digest of weights, template and tokenizer that answers are held to."""
    import json

    from narrows.audit.choose import scorer_named

    digest = scorer_named(scorer, model).digest.hex()
    typer.echo(json.dumps({"pins": digest}) if as_json else digest)
