"""``narrows weak average``: one model out of several fine-tunings of one base."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.weak.options import (
    LicenceOption,
    NameOption,
    SourcesOption,
    ThreadsOption,
    provenance,
    training_extra,
)

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example:  narrows weak average run1/ run2/ --base smollm2-135m "
    "--answers train.jsonl --out mean.narrows"
)
def average(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished 'narrows weak train'.")],
    base: Annotated[str, typer.Option(help="The base, as given to 'narrows weak train'.")],
    answers: Annotated[
        list[Path], typer.Option(help="The runs' JSONL, whose held-out part measures; repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="Artifact to write.")],
    name: NameOption = "small",
    licence: LicenceOption = "not stated",
    sources: SourcesOption = "not stated",
    threads: ThreadsOption = 0,
    json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Pack the mean of the weights of several fine-tunings, which mostly imitates better than
    the best of them.

    The runs must be of one base and differ: in seed, method, rate or answers. They need nothing
    of each other, so they may be made one after another or on several machines. Needs the extra
    packages of "train". To sign the artifact, give 'narrows weak publish' all runs.
    """
    from narrows.errors import InputError
    from narrows.models.registry import progress_bar

    if len(runs) < 2:
        raise InputError("one run has no mean", "give the folders of two runs or more")
    with training_extra(threads):
        from narrows.training.base import load_base
        from narrows.training.merge import pack_runs
    facts = provenance(licence, sources)
    with progress_bar("Measuring the runs and their mean") as progress:
        tuned = pack_runs(
            runs,
            out,
            load_base(base),
            name=name,
            answers=answers,
            provenance=facts,
            progress=progress,
        )
    over = tuned.packed_bits / tuned.float_bits - 1
    row = {
        "path": str(out),
        "sha256": tuned.digest.hex(),
        "bytes": out.stat().st_size,
        "run_bits_per_token": [round(bits, 5) for bits in tuned.run_bits],
        "float_bits_per_token": round(tuned.float_bits, 5),
        "packed_bits_per_token": round(tuned.packed_bits, 5),
        "packed_over_float": round(over, 5),
    }
    if json:
        typer.echo(json_module.dumps(row))
        return
    for run, bits in zip(runs, tuned.run_bits, strict=True):
        typer.echo(f"{run}: {bits:.3f} bits a held-out token")
    typer.echo(f"their mean: {tuned.float_bits:.3f}; packing cost {over:+.3%}")
    if tuned.float_bits > min(tuned.run_bits):
        typer.echo("the mean is no better than the best run: pack that one")
    typer.echo(f"{out}: {row['bytes']:,} bytes\nsha256 {row['sha256']}")
