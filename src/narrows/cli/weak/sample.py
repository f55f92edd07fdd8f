"""``narrows weak sample``: answers of a model here, for a weak one to learn from."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(epilog="Example:  narrows weak sample prompts.jsonl --out shards/")
def sample(
    prompts: Annotated[Path, typer.Argument(help="JSONL with id and prompt.")],
    out: Annotated[Path, typer.Option(help="Folder for the shards.")],
    model: Annotated[str, typer.Option(help="Artifact or name.")] = "smollm2-135m",
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0)] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, max=8192)] = 256,
    max_prompt: Annotated[int, typer.Option(min=1, max=8192)] = 400,
    top_k: Annotated[int, typer.Option(min=1, max=256, help="Likely tokens to keep.")] = 24,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Answers at a time.")] = 64,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Sample one answer to each prompt, with the model's most likely tokens at every place.
    Prompts go in an order that the seed decides, 256 answers to a shard."""
    from narrows.errors import InputError
    from narrows.models.registry import load_model, progress_bar
    from narrows.training.corpus.examples import write_shard
    from narrows.training.corpus.prompts import read_prompts
    from narrows.training.corpus.sample import Sampled, sample_answers

    if out.is_dir() and any(out.glob("*.npz")):
        raise InputError(f"{out} holds shards already", "use another folder")
    rows = read_prompts(prompts, seed)
    loaded = load_model(model, kv_bytes=2 << 30)
    out.mkdir(parents=True, exist_ok=True)
    waiting: list[Sampled] = []
    answers = tokens = shards = 0

    def flush() -> None:
        nonlocal shards
        write_shard(out / f"{shards:05d}.npz", waiting)
        shards += 1
        waiting.clear()

    with progress_bar("Sampling") as progress:
        for answer in sample_answers(
            loaded,
            rows,
            temperature=temperature,
            max_tokens=max_tokens,
            max_prompt_tokens=max_prompt,
            batch=batch,
            seed=seed,
            top_k=top_k,
        ):
            waiting.append(answer)
            answers, tokens = answers + 1, tokens + len(answer.answer)
            progress(answers, len(rows))
            if len(waiting) == 256:
                flush()
    if waiting:
        flush()
    row = {"out": str(out), "shards": shards, "answers": answers, "tokens": tokens}
    row |= {"skipped": len(rows) - answers}
    typer.echo(
        json_module.dumps(row)
        if json
        else f"{answers} answers, {tokens:,} tokens, {shards} shards in {out}; "
        f"{row['skipped']} prompts were too long"
    )
