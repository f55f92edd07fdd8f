"""``narrows bench audit``: what of real answers an auditor cannot explain."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: narrows bench audit --engine bfloat16 --scorer torch --weak default --json. "
    "Thieves: narrows bench audit --thieves 3. Bars: unexplained_bits 0.005 for the exact runtime, "
    "0.09 for bfloat16 (upper limit)."
)
def audit(
    engine: Annotated[
        str, typer.Option(help="What serves: runtime, bfloat16, float32 or int8.")
    ] = "runtime",
    scorer: Annotated[str, typer.Option(help="What audits: runtime or torch.")] = "runtime",
    weak: Annotated[
        str | None,
        typer.Option(help="Weak model: a name or an artifact. Default: 5-bit weights."),
    ] = None,
    answers: Annotated[int, typer.Option(min=1, max=4096, help="Answers at once.")] = 64,
    tokens: Annotated[int, typer.Option(min=1, max=4096, help="Most tokens of each.")] = 100,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="T.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0, help="top_p.")] = 1.0,
    tick_ms: Annotated[int, typer.Option(min=1, max=60000, help="The gate's tick.")] = 100,
    thieves: Annotated[
        int,
        typer.Option(min=0, max=1000, help="Instead, so many runs of thieves who hide a payload."),
    ] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="8 answers of 32 tokens.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Serve with shared noise, record the tape, decode it, recompute every answer."""
    from rich.console import Console

    from narrows.audit.report import text
    from narrows.bench.audit.run import Settings, measure, steal

    if thieves:
        with Console(stderr=True).status("starting") as status:
            stolen = steal(thieves, tokens, status.update)
        typer.echo(json.dumps(stolen) if as_json else _thieves_text(stolen))
        return
    if quick:
        answers, tokens = 8, 32
    settings = Settings(engine, scorer, weak, answers, tokens, temperature, top_p, tick_ms)
    with Console(stderr=True).status("starting") as status:
        result = measure(settings, status.update)
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo("\n".join(text(result)))
    for name in ("segment_bits", "timing_bits", "bound_over_truth", "prefill_tok_s"):
        typer.echo(f"  {name:<32} {result[name]}")
    for name in ("decode_tok_s", "edge_decode_tok_s", "audit_tok_s"):
        typer.echo(f"  {name:<32} {result[name]}")


def _thieves_text(stolen: dict[str, Any]) -> str:
    rows = []
    for one in stolen["thieves"]:
        heard = one["heard_bits"]
        alarm = "no alarm" if heard is None else f"alarm after {heard:.0f} of them"
        state = "charged" if one["charged"] and one["received"] else "NOT CHARGED"
        rows.append(
            f"  {one['thief']}: {one['payload_bits']} bits of payload for {one['charge_bits']:.0f} "
            f"in {one['tokens']} tokens, {alarm}: {state}"
        )
    return "\n".join(rows)
