"""``narrows plan weights PATH``: what a thief would have to move."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(epilog="Example: narrows plan weights model.safetensors --json")
def weights(
    path: Annotated[Path, typer.Argument(help="A .safetensors or .gguf file, or their folder.")],
    sample: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="How much of each tensor to measure; larger ones are sampled. A number alone "
            "is MB.",
        ),
    ] = "64MB",
    tensors: Annotated[bool, typer.Option("--tensors", help="A line per tensor.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure a checkpoint as an attacker sees it: size, entropy, lossless and lossy ratios."""
    from narrows.plan.stored.weights import as_json as report
    from narrows.plan.stored.weights import measure, render
    from narrows.sizes import size_bytes

    sample_bytes = size_bytes(f"{sample}MB" if sample.isdecimal() else sample, "--sample", least=1)
    found = measure(path, sample_bytes)
    if as_json:
        typer.echo(json.dumps(report(found), indent=2, allow_nan=False))
        return
    from narrows.cli.console import report_console

    render(found, report_console(), tensors)
