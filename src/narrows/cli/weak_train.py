"""``narrows weak train``: a small model that imitates a larger one's answers."""

from __future__ import annotations

import json as json_module
import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(epilog="Example:  narrows weak train --shards shards/ --run run/ --out small.narrows")
def train(
    run: Annotated[Path, typer.Option(help="Folder of the run; an interrupted one goes on.")],
    out: Annotated[Path, typer.Option(help="Artifact to write.")],
    shards: Annotated[
        Path | None, typer.Option(help="Folder of sampled answers (narrows weak sample).")
    ] = None,
    answers: Annotated[
        list[Path] | None, typer.Option(help="JSONL with prompt and response; repeatable.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="'default' or a TOML file.")] = "default",
    teacher: Annotated[
        str, typer.Option(help="Artifact or name whose tokenizer and chat template are used.")
    ] = "smollm2-135m",
    name: Annotated[str, typer.Option(help="The model's name.")] = "small",
    licence: Annotated[str, typer.Option(help="Licence, for the provenance.")] = "not stated",
    sources: Annotated[str, typer.Option(help="Where the prompts come from.")] = "not stated",
    threads: Annotated[int, typer.Option(min=0, help="0: all processors.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Train a small transformer from scratch and pack its best weights.

    Needs the extra packages of "train". Give the same command again after a crash. On several
    GPUs: accelerate launch -m narrows.cli.main weak train ...
    """
    from narrows.errors import InputError
    from narrows.training.recipe import find_recipe

    try:
        import torch

        from narrows.training.job import pack_job, train_job
    except ImportError as error:
        raise InputError(f"training needs {error.name}", "pip install 'narrows[train]'") from error
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    if shards is None and not answers:
        raise InputError("there is nothing to train on", "give --shards or --answers")
    plan = find_recipe(recipe)
    if threads:
        torch.set_num_threads(threads)
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[figures]}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("Training", total=1.0, figures="")
        best = train_job(
            plan,
            run,
            teacher=teacher,
            shards=shards,
            answers=answers or (),
            on_progress=lambda p: bar.update(
                task,
                completed=p.share,
                figures=f"loss {p.loss:.2f}, dev {p.dev_bits_per_byte:.3f} bits/byte, "
                f"{p.tokens_per_s:.0f} tokens/s, {p.eta_s:.0f} s left",
            ),
        )
    if int(os.environ.get("RANK", "0")):  # another process packs
        return
    digest = pack_job(
        plan,
        run,
        out,
        teacher=teacher,
        name=name,
        provenance={"license": licence, "prompt_sources": sources},
    )
    row = {"path": str(out), "sha256": digest.hex(), "bytes": out.stat().st_size}
    row |= {"dev_bits_per_token": round(best, 4)}
    if json:
        typer.echo(json_module.dumps(row))
    else:
        typer.echo(f"{out}: {row['bytes']:,} bytes, {best:.3f} bits a dev token")
        typer.echo(f"sha256 {row['sha256']}")
