"""``narrows bench hostile``: how long a broken link's last bytes hold up the next answer."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: narrows bench hostile --weak smollm2-135m --answers 32 --tokens 40. "
    "The bar is after_s - idle_s <= 2 s."
)
def hostile(
    weak: Annotated[str, typer.Option(help="Weak model: a name or an artifact.")] = "default",
    answers: Annotated[int, typer.Option(min=1, max=1024, help="Hostile answers.")] = 64,
    tokens: Annotated[int, typer.Option(min=1, max=4096, help="Tokens of each.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Break a link amid bytes that hold very many tokens; time the next link's first answer."""
    from narrows.bench.hostile import measure
    from narrows.models.registry import load_model

    result = dataclasses.asdict(measure(load_model(weak), answers, tokens))
    if as_json:
        typer.echo(json.dumps(result))
        return
    for name, value in result.items():
        typer.echo(f"{name:>15} {value:.3f}" if isinstance(value, float) else f"{name:>15} {value}")
