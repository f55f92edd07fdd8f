"""``narrows bench runtime``: the exact runtime against llama.cpp and the float32 model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrows.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(add_completion=False)

_ROWS = (
    ("exact", "all digests equal"),
    ("bpb_exact", "bits per byte, exact"),
    ("bpb_float", "bits per byte, float32"),
    ("bpb_excess", "excess"),
    ("single_tok_s", "1 stream, tokens/s"),
    ("llamacpp_single_tok_s", "  llama.cpp"),
    ("batch16_tok_s", "16 streams, tokens/s"),
    ("llamacpp_batch16_tok_s", "  llama.cpp"),
    ("prefill_tok_s", "prefill, all distributions, tokens/s"),
    ("prompt_tok_s", "prompt, the last distribution, tokens/s"),
    ("llamacpp_prefill_tok_s", "  llama.cpp, the last distribution"),
    ("batch16_ctx2000_tok_s", "16 streams, contexts of 2,000"),
    ("batch64_tok_s", "64 streams"),
    ("coding_us", "distribution and coding, us per token"),
    ("start_s", "start, s"),
    ("rss_mb", "resident memory, MB"),
)


@app.command(epilog="Example:  narrows bench runtime --answers answers.jsonl --quick --json")
def runtime(
    answers: Annotated[
        Path | None, typer.Option(help="JSON lines with prompt and response.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="20 answers, 2,000 tokens for exactness.")] = False,
    threads: Annotated[int, typer.Option(min=0, max=256, help="0: every processor.")] = 0,
    engine: Annotated[
        str, typer.Option(help="Another engine, measured beside numba: torch, torch:cuda, ...")
    ] = "auto",
    model: Annotated[str, typer.Option(help="With --engine: name or artifact.")] = "smollm2-135m",
    streams: Annotated[str, typer.Option(help="With --engine: how many at once.")] = "1,16",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Bits, exactness, speed and memory of the exact runtime; llama.cpp in the same run.

    With --engine: that engine's speeds beside numba's, and the digests that must be equal;
    exit code 3 where they are not.
    """
    import json

    from rich.console import Console
    from rich.table import Table

    from narrows.bench.runtime import run, run_engine

    counts = _counts(streams)
    console = Console(stderr=True)
    with console.status("starting") as status:

        def report(text: str) -> None:
            status.update(text)

        if engine == "auto":
            result = run(answers, quick=quick, threads=threads, report=report)
        else:
            result = run_engine(engine, model, counts, quick=quick, threads=threads, report=report)
    if as_json:
        typer.echo(json.dumps(result))
    elif engine == "auto":
        table = Table("", "measured", title=f"exact runtime, {result['backend']}")
        for key, name in _ROWS:
            table.add_row(name, _shown(result.get(key)))
        Console().print(table)
    else:
        Console().print(_beside(result))
    if engine != "auto" and not result["exact"]:
        raise ArtifactError(f"engine {engine} computes other integers than numba")


def _counts(streams: str) -> list[int]:
    found = [int(word) for word in streams.split(",") if word.isascii() and word.isdecimal()]
    if len(found) != streams.count(",") + 1 or not all(1 <= n <= 4096 for n in found):
        raise InputError(f"--streams {streams!r} is no list of counts", "such as 1,16,256")
    return found


def _beside(result: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(
        "tokens/s", result["backend"], "numba", "ratio", title="the same integers, two engines"
    )
    for key in [key for key in result if f"{key}_ratio" in result]:
        cells = (result[key], result[f"numba_{key}"], result[f"{key}_ratio"])
        table.add_row(key.removesuffix("_tok_s"), *map(_shown, cells))
    table.add_row(f"equal over {result['exact_tokens']:,} tokens", _shown(result["exact"]))
    return table


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 100 else f"{value:,.0f}"
    return "not measured" if value is None else str(value)
