"""``narrows enclave``: the role that holds the strong model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.console import LogFormatOption

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Examples:  narrows enclave --config narrows.toml   |   "
    "narrows enclave --upstream-url http://127.0.0.1:8000/v1 --upstream-model llama-3.1-8b"
)
def enclave(
    config: Annotated[Path | None, typer.Option(help="Configuration file.")] = None,
    listen: Annotated[str | None, typer.Option(help="host:port where the gate connects.")] = None,
    model: Annotated[str | None, typer.Option(help="Built-in strong model or artifact.")] = None,
    upstream_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible server to use instead, up to /v1.")
    ] = None,
    upstream_model: Annotated[str | None, typer.Option(help="Model name at that server.")] = None,
    weak: Annotated[list[str] | None, typer.Option(help="Weak models, newest first.")] = None,
    log_format: LogFormatOption = "text",
) -> None:
    """Run the strong model and code its answers for the link.

    The API key of an upstream server is read from the file (api_key in the section
    enclave.upstream) or from the variable NARROWS_UPSTREAM_KEY, never from a flag.
    """
    import asyncio
    import dataclasses
    import os

    from narrows.deploy.config import load_config
    from narrows.enclave.config import UpstreamFlags
    from narrows.enclave.models import load_weak, make_backend
    from narrows.enclave.server import serve
    from narrows.logs import start_logging

    start_logging("enclave", log_format)
    settings = load_config(config).enclave
    if listen is not None:
        settings = dataclasses.replace(settings, listen=listen)
    if model is not None:
        settings = dataclasses.replace(settings, model=model, upstream=None)
    if weak:
        settings = dataclasses.replace(settings, weak=tuple(weak))
    settings = UpstreamFlags(upstream_url, upstream_model).over(settings)
    key = os.environ.get("NARROWS_UPSTREAM_KEY")
    if key and settings.upstream is not None:
        with_key = dataclasses.replace(settings.upstream, api_key=key)
        settings = dataclasses.replace(settings, upstream=with_key)
    settings.check()
    models = load_weak(settings)
    backend = make_backend(settings, models)
    asyncio.run(serve(settings, backend, models))
