"""``narrows bench engines``: a running vLLM, its answers on the link and its speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: narrows bench engines http://127.0.0.1:8000/v1 --model m --folder "
    "/srv/models/m --part speed --json. It starts no server: docs/engines.md says how."
)
def engines(
    url: Annotated[str, typer.Argument(help="The server, up to /v1.")],
    folder: Annotated[Path, typer.Option(help="What the server was started with.")],
    model: Annotated[str, typer.Option(help="The name it serves the model under.")] = "m",
    part: Annotated[str, typer.Option(help="bits, speed or both.")] = "both",
    weak: Annotated[
        str, typer.Option(help="Weak model, or near: the built-in strong one in 5 bits.")
    ] = "near",
    exact: Annotated[
        str | None,
        typer.Option(help="The server's model for the exact runtime: adds H, CE and KL."),
    ] = None,
    prompts: Annotated[int, typer.Option(min=2, max=200, help="Answers a way.")] = 20,
    tokens: Annotated[int, typer.Option(min=8, max=2000, help="Tokens an answer.")] = 100,
    batch: Annotated[str, typer.Option(help="Answers at once, a list.")] = "1,8,32",
    pairs: Annotated[int, typer.Option(min=2, max=1000, help="Windows with and without.")] = 12,
    window: Annotated[int, typer.Option(min=4, max=2000, help="Tokens of an answer there.")] = 32,
    pid: Annotated[
        int | None, typer.Option(min=1, help="The server's process: its processor time too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Bits a token coupled, as plain ids and as text; tokens/s with ÷ without keys."""
    from rich.console import Console

    from narrows.bench.engines import speed
    from narrows.bench.engines.run import bits, reach
    from narrows.enclave.config import UpstreamConfig
    from narrows.errors import InputError

    if part not in ("bits", "speed", "both"):
        raise InputError(f"--part {part!r} is no part", "bits, speed or both")
    try:
        batches = [int(one) for one in batch.split(",")]
    except ValueError as error:
        raise InputError(f"--batch {batch!r} is no list", "as in 1,8,32") from error
    if not all(1 <= one <= 1024 for one in batches):
        raise InputError("--batch goes from 1 to 1024")
    (folder / "config.json").read_bytes()  # before the server is waited for: OSError is told
    upstream = UpstreamConfig(  # a busy machine makes no measurement fail
        url,
        model,
        folder=folder,
        first_token_timeout_s=1800.0,
        token_timeout_s=1800.0,
        answer_timeout_s=7200.0,
    )
    reach(upstream)
    console = Console(stderr=True)
    with console.status("starting") as status:
        result: dict[str, Any] = {}
        if part != "speed":
            result |= bits(upstream, weak, exact or "", prompts, tokens, status.update)
        if part != "bits":
            result["speed"] = speed.measure(upstream, batches, pairs, window, status.update, pid)
    typer.echo(json.dumps(result) if as_json else json.dumps(result, indent=1))
