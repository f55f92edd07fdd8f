"""``narrows weak train``: a small model that imitates a larger one's answers."""

from __future__ import annotations

import contextlib
import json as json_module
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrows.cli.weak.options import (
    LicenceOption,
    NameOption,
    SourcesOption,
    ThreadsOption,
    provenance,
    training_extra,
)

if TYPE_CHECKING:
    from narrows.training.loop import Progress
    from narrows.training.recipe import Recipe

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example:  narrows weak train --base smollm2-135m --answers train.jsonl "
    "--run run/ --out tuned.narrows"
)
def train(
    run: Annotated[
        Path,
        # torchrun takes --run for an abbreviation of an option of its own: it needs the other.
        typer.Option(
            "--run", "--run-folder", help="Folder of the run; an interrupted one goes on."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Artifact to write.")],
    shards: Annotated[
        Path | None, typer.Option(help="Folder of sampled answers (narrows weak sample).")
    ] = None,
    answers: Annotated[
        list[Path] | None, typer.Option(help="JSONL with prompt and response; repeatable.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Fine-tune this: a folder, a GGUF file, or smollm2-135m."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="With --base: lora or full (else the recipe's, or lora).")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="TOML file; else one for the method, or for a new model.")
    ] = None,
    teacher: Annotated[
        str, typer.Option(help="Artifact or name whose tokenizer and chat template are used.")
    ] = "smollm2-135m",
    name: NameOption = "small",
    licence: LicenceOption = "not stated",
    sources: SourcesOption = "not stated",
    threads: ThreadsOption = 0,
    json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Fine-tune a small model (--base), or train one from scratch, and pack its best weights.

    Needs the extra packages of "train". Give the same command again after a crash. On several
    GPUs: torchrun --nproc-per-node 8 -m narrows.cli.main weak train --run-folder run/ ...
    """
    from narrows.errors import InputError
    from narrows.training.recipe import find_recipe

    if shards is None and not answers:
        raise InputError("there is nothing to train on", "give --shards or --answers")
    if base is not None and (shards is not None or not answers):
        raise InputError("fine-tuning learns from text", "give --base with --answers")
    if base is None and method is not None:
        raise InputError("--method is for fine-tuning", "give --base too")
    if method not in (None, "lora", "full"):
        raise InputError(f"--method {method!r}", "lora or full")
    plan = find_recipe(recipe or ("default" if base is None else method or "lora"))
    if base is not None and (method or plan.method == "scratch"):
        plan = replace(plan, method=method or "lora")
    if base is None and plan.method != "scratch":
        raise InputError(f"the recipe's method {plan.method} needs a base", "give --base")
    facts = provenance(licence, sources)
    job = _job(plan, run, base, teacher, shards, answers or [], threads)
    with _bar() as update:
        best = job.train(update)
    if not _first():  # another process packs
        return
    digest, figures = job.pack(out, name, facts)
    row = {"path": str(out), "sha256": digest.hex(), "bytes": out.stat().st_size}
    row |= {"dev_bits_per_token": round(best, 4)} | figures
    if json:
        typer.echo(json_module.dumps(row))
    else:
        typer.echo(f"{out}: {row['bytes']:,} bytes, {best:.3f} bits a dev token")
        if "packed_over_float" in row:
            typer.echo(f"packing cost {row['packed_over_float']:+.3%} of these bits")
        typer.echo(f"sha256 {row['sha256']}")


@dataclass(frozen=True)
class _Job:
    train: Callable[[Callable[[Progress], None]], float]
    pack: Callable[[Path, str, dict[str, Any]], tuple[bytes, dict[str, float]]]


def _job(
    plan: Recipe,
    run: Path,
    base: str | None,
    teacher: str,
    shards: Path | None,
    answers: list[Path],
    threads: int,
) -> _Job:
    """What to call for a new model (no ``base``) or a tuned one."""
    with training_extra(threads):
        from narrows.training.job import pack_job, train_job
        from narrows.training.merge import pack_runs
        from narrows.training.tune import tune_job
    if base is None:
        return _Job(
            lambda each: train_job(
                plan, run, teacher=teacher, shards=shards, answers=answers, on_progress=each
            ),
            lambda out, name, facts: (
                pack_job(plan, run, out, teacher=teacher, name=name, provenance=facts),
                {},
            ),
        )
    from narrows.training.base import load_base

    source = load_base(base)

    def pack(out: Path, name: str, facts: dict[str, Any]) -> tuple[bytes, dict[str, float]]:
        tuned = pack_runs([run], out, source, name=name, answers=answers, provenance=facts)
        bits = {
            "float_bits_per_token": tuned.float_bits,
            "packed_bits_per_token": tuned.packed_bits,
        }
        over = {"packed_over_float": tuned.packed_bits / tuned.float_bits - 1}
        return tuned.digest, {key: round(value, 5) for key, value in (bits | over).items()}

    return _Job(lambda each: tune_job(plan, run, source, answers=answers, on_progress=each), pack)


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    """Progress on stderr: a bar on a terminal, else a line whenever dev was measured."""
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TextColumn

    console = Console(stderr=True)
    columns = (*Bar.get_default_columns(), TextColumn("{task.fields[figures]}"))
    disabled = not console.is_terminal or not _first()
    with Bar(*columns, console=console, disable=disabled) as bar:
        task = bar.add_task("Training", total=1.0, figures="")
        seen = math.nan

        def update(p: Progress) -> None:
            nonlocal seen
            figures = f"loss {p.loss:.3f}, dev {p.dev_bits_per_byte:.4f} bits/byte, "
            figures += f"{p.tokens_per_s:.0f} tokens/s, {p.eta_s:.0f} s left"
            bar.update(task, completed=p.share, figures=figures)
            if not console.is_terminal and _first() and p.dev_bits == p.dev_bits != seen:
                seen = p.dev_bits
                console.print(f"step {p.step}, {p.share:.0%}: {figures}", highlight=False)

        yield update


def _first() -> bool:
    """Whether this is the process that reports and packs."""
    return int(os.environ.get("RANK", "0")) == 0
