"""``narrows bench detect``: what leaks before the detectors that need no weights ring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: narrows bench detect --answers answers.jsonl --tokens 4000 --json. "
    "Bars: watching_share <= 0.01, medians of answer <= 200, key_short_answers <= 1000 bits."
)
def detect(
    answers: Annotated[Path, typer.Option(help="JSON lines with prompt and response.")],
    null: Annotated[
        Path | None, typer.Option(help="Of 'narrows alarms calibrate'; else the shipped one.")
    ] = None,
    weak: Annotated[str, typer.Option(help="Weak model: a name or an artifact.")] = "default",
    strong: Annotated[str, typer.Option(help="Strong model, same vocabulary.")] = "smollm2-135m",
    tokens: Annotated[int, typer.Option(min=100, max=1_000_000, help="Tokens to draw.")] = 8000,
    runs: Annotated[int, typer.Option(min=1, max=10_000, help="Runs of each thief.")] = 100,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Draw honest and stolen tokens behind real answers' words; run the detectors on them."""
    import json

    import numpy as np
    from rich.console import Console

    from narrows.alarms.noise import NoiseNull, null_from_json
    from narrows.bench.detection.expense import watching_share
    from narrows.bench.detection.power import power
    from narrows.durable import read_once
    from narrows.models.registry import load_model

    console = Console(stderr=True)
    held = NoiseNull() if null is None else null_from_json(read_once(null, 1 << 16))
    with console.status("starting") as status:
        pool = pool_of(answers, strong, weak, tokens, seed, status.update)
        result: dict[str, Any] = {"answers": len(pool), "weak": weak, "strong": strong}
        result["tokens"] = sum(one.tokens for one in pool)
        for name in ("honest", "stolen"):
            segments = [segment for one in pool for segment in getattr(one, name)]
            gain = sum(segment.luck_bits for segment in segments)
            result[f"luck_{name}"] = round(gain / result["tokens"], 3)
        status.update("what watching costs")
        rng = np.random.default_rng(seed)
        result["watching_share"] = round(watching_share(load_model(weak, threads=1), rng), 4)
        result |= power(pool, held, np.random.default_rng(seed), runs, status.update)
    if as_json:
        typer.echo(json.dumps(result))
        return
    for name, value in result.items():
        typer.echo(f"{name}: {value}")


def pool_of(answers: Path, strong: str, weak: str, tokens: int, seed: int, say: Any) -> list[Any]:
    """Drawn answers of at least so many tokens, where the file has them."""
    import numpy as np

    from narrows.bench.detection.draw import draw
    from narrows.models.registry import load_model
    from narrows.rows import some_rows

    rng = np.random.default_rng(seed)
    rows = [row for row in some_rows(answers) if row["response"]]
    shuffled = (rows[at] for at in rng.permutation(len(rows)))
    pool: list[Any] = []
    for one in draw(shuffled, load_model(strong), load_model(weak), rng):
        pool.append(one)
        drawn = sum(answer.tokens for answer in pool)
        say(f"{drawn:,} of {tokens:,} tokens drawn")
        if drawn >= tokens:
            break
    return pool
