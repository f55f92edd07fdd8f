"""``narrows edge``: the role that serves the API outside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.console import LogFormatOption

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example:  narrows edge --state DIR --listen 127.0.0.1:8400 --gate 127.0.0.1:8402"
)
def edge(
    config: Annotated[Path | None, typer.Option(help="Configuration file.")] = None,
    state: Annotated[Path | None, typer.Option(help="State folder (keys, statistics).")] = None,
    listen: Annotated[str | None, typer.Option(help="host:port of the API; port 0: any.")] = None,
    gate: Annotated[str | None, typer.Option(help="host:port of the gate.")] = None,
    weak: Annotated[list[str] | None, typer.Option(help="Weak models, newest first.")] = None,
    model_name: Annotated[str | None, typer.Option(help="Name of the model in the API.")] = None,
    log_format: LogFormatOption = "text",
) -> None:
    """Serve the OpenAI API and rebuild the answers that come over the link.

    Prints one JSON line, {"ready": true, "port": N}, when the API listens.
    """
    import asyncio
    import dataclasses
    import json
    import sys

    from narrows.deploy.config import load_config
    from narrows.deploy.state import state_dir
    from narrows.edge.config import EdgeConfig
    from narrows.edge.serve import serve
    from narrows.errors import InputError
    from narrows.logs import start_logging
    from narrows.models.api import TokenModel
    from narrows.models.registry import load_model
    from narrows.models.shelf.operators import operator_keys
    from narrows.models.shelf.shelf import Shelf, Shelving
    from narrows.wire.address import parse_address

    start_logging("edge", log_format)
    settings = load_config(config).edge
    if settings.models and (gate is not None or model_name is not None or weak):
        raise InputError(
            "--gate, --weak and --model-name are of one model, and [[edge.models]] names several",
            "write what they say into the entries",
        )
    if listen is not None:
        host, port = parse_address(listen)
        settings = dataclasses.replace(settings, listen_host=host, listen_port=port)
    if gate is not None:
        host, port = parse_address(gate)
        settings = dataclasses.replace(settings, gate_host=host, gate_port=port)
    if weak:
        settings = dataclasses.replace(settings, weak=tuple(weak))
    if model_name is not None:
        settings = dataclasses.replace(settings, model_name=model_name)
    settings.check()
    # The decoder's thread must not hold a token back for 5 ms at every turn of the loop.
    sys.setswitchinterval(0.001)
    operators = operator_keys(settings.operators)

    def shelf(one: EdgeConfig) -> Shelf:
        def load(name: str | Path, expect: bytes | None) -> TokenModel:
            kv_bytes = one.weak_kv_mib << 20
            return load_model(name, kv_bytes=kv_bytes, expect=expect, engine=one.engine)

        return Shelf(Shelving(one.weak, one.weak_folder, operators, load))

    models = {one.model_name: shelf(one) for one in settings.each()}

    def ready(port: int) -> None:
        typer.echo(json.dumps({"ready": True, "port": port}))

    asyncio.run(serve(settings, state_dir(state), models, ready))
