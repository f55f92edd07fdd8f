"""``narrows metrics``: figures of all roles for Prometheus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from narrows.cli.console import LogFormatOption

if TYPE_CHECKING:
    from narrows.metrics.config import MetricsConfig
    from narrows.metrics.enclave import EnclaveFigures
    from narrows.metrics.sampler import Sampler

app = typer.Typer(add_completion=False)
MAX_TOKEN_BYTES = 4096


@app.command(
    epilog="Examples:  narrows metrics --state DIR   |   narrows metrics --once | promtool check "
    "metrics   |   narrows metrics --write-rules rules.yml --write-dashboard narrows.json"
)
def metrics(
    config: Annotated[
        Path | None, typer.Option(help="Configuration with the section metrics.")
    ] = None,
    state: Annotated[Path | None, typer.Option(help="State folder.")] = None,
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT of the exporter; port 0 takes a free one.")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Print what a scrape would get now, and end.")
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="Print all metrics and what they mean.")
    ] = False,
    per_key: Annotated[
        bool, typer.Option("--per-key", help="By API key too: how much each client's answers said.")
    ] = False,
    write_dashboard: Annotated[
        Path | None, typer.Option(help="Write a dashboard for Grafana's import, and end.")
    ] = None,
    write_rules: Annotated[
        Path | None, typer.Option(help="Write alert rules for Prometheus, and end.")
    ] = None,
    log_format: LogFormatOption = "text",
) -> None:
    """Read what the roles of this machine left in the state folder, at fixed moments, and answer
    Prometheus with it at /metrics.

    The gate has no listener for this. Prints one JSON line when it listens.
    """
    if list_ or write_dashboard is not None or write_rules is not None:
        _write(list_, write_dashboard, write_rules)
        return
    import asyncio
    import dataclasses
    import json

    from narrows.deploy.config import load_config
    from narrows.deploy.state import existing_state_dir
    from narrows.logs import start_logging
    from narrows.metrics.enclave import EnclaveFigures
    from narrows.metrics.server import export
    from narrows.wire.address import parse_address

    start_logging("metrics", log_format)
    whole = load_config(config)
    settings = dataclasses.replace(whole.metrics, per_key=per_key or whole.metrics.per_key)
    if listen is not None:
        settings = dataclasses.replace(settings, listen=listen)
    settings.check()
    folder = existing_state_dir(state)
    enclave = None
    if settings.telemetry and not once:
        from narrows.edge.pull.telemetry import read_lines

        enclave = EnclaveFigures(lambda: read_lines(whole.edge, settings.telemetry))
    sampler = _sampler(folder, settings, enclave)
    if once:
        sampler.sample()
        typer.echo(sampler.body.decode(), nl=False)
        return
    token = _token(settings)

    def ready(port: int) -> None:
        typer.echo(json.dumps({"ready": True, "role": "metrics", "port": port}))

    address = parse_address(settings.listen)
    asyncio.run(export(sampler, address, settings.sample_s, ready, token, enclave))


def _sampler(folder: Path, settings: MetricsConfig, enclave: EnclaveFigures | None) -> Sampler:
    import dataclasses

    from narrows.deploy.state import ledger_place
    from narrows.deploy.verdicts import read_book
    from narrows.metrics.sampler import LedgerReader, Sampler

    return Sampler(
        folder,
        LedgerReader(ledger_place(folder)),
        lambda: dataclasses.asdict(read_book(folder)),
        enclave,
        settings.per_key,
    )


def _token(settings: MetricsConfig) -> str:
    from narrows.durable import read_once
    from narrows.errors import InputError

    if settings.token_file is None:
        return ""
    token = read_once(settings.token_file, MAX_TOKEN_BYTES).decode("ascii", "replace").strip()
    if len(token) < 16 or not token.isprintable():
        raise InputError(
            f"{settings.token_file} holds no token of 16 characters or more",
            "make one: openssl rand -hex 32",
        )
    return token


def _write(list_: bool, dashboard: Path | None, rules: Path | None) -> None:
    from narrows.durable import write_whole
    from narrows.metrics.dashboard import dashboard_json
    from narrows.metrics.rules import rules_yaml
    from narrows.metrics.table import markdown

    if list_:
        typer.echo(markdown(), nl=False)
    for path, text in ((dashboard, dashboard_json()), (rules, rules_yaml())):
        if path is not None:
            write_whole(path, text.encode(), 0o644)
            typer.echo(f"wrote {path}", err=True)
