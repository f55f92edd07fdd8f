"""``narrows redteam probe``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from narrows.redteam.probe import Inside, Outside

app = typer.Typer(add_completion=False)
Addresses = Annotated[
    list[str], typer.Option(metavar="HOST:PORT", help="Inside: what must be out of reach.")
]
Shut = list[str]


@app.command(
    epilog="Examples:  narrows redteam probe --from inside --target 192.0.2.1:443 --gate 10.0.0.1"
    "   |   narrows redteam probe --from outside --config narrows.toml --json. "
    "Exit code 1: a hole."
)
def probe(
    side: Annotated[Literal["inside", "outside"], typer.Option("--from", help="Where this runs.")],
    config: Annotated[
        Path | None, typer.Option(help="Outside: addresses of gate, witness, enclave and edge.")
    ] = None,
    target: Addresses = [],  # noqa: B006  # Typer copies it
    gate: Annotated[
        str, typer.Option(help="Inside: the gate's address toward the enclave; its ports.")
    ] = "",
    port: Annotated[
        list[int], typer.Option(min=1, max=65535, help="Inside: further ports of the gate.")
    ] = [],  # noqa: B006
    name: Annotated[list[str], typer.Option(help="Inside: a name that must not resolve.")] = [],  # noqa: B006
    dns: Annotated[
        list[str], typer.Option(metavar="HOST", help="Inside: a resolver that must not answer.")
    ] = [],  # noqa: B006
    metadata: Annotated[
        bool, typer.Option("--metadata", help="Inside: the clouds' metadata addresses, too.")
    ] = False,
    shut: Annotated[
        Shut, typer.Option(metavar="HOST:PORT", help="Outside: a port that is not for strangers.")
    ] = [],  # noqa: B006
    api: Annotated[
        list[str], typer.Option(metavar="HOST:PORT", help="Outside: an edge, which asks for keys.")
    ] = [],  # noqa: B006
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, max=60, help="Seconds of each check.")
    ] = 2.0,
    out: Annotated[Path | None, typer.Option(help="Write the report here, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Try to get past the gate of your own installation.

    From inside, run it on the enclave's machine as the enclave's user: nothing that you name may
    be reached. From outside, run it where a stranger could be: the ports of gate, state, witness
    and enclave must be shut, and the edge must ask for a key. It addresses nothing that is not
    named on the command line or in --config.
    """
    import json

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from narrows.cli.console import report_console
    from narrows.cli.outputs import check_places
    from narrows.durable import write_whole
    from narrows.redteam import probe as work
    from narrows.wire.address import parse_address

    what: Inside | Outside
    if side == "inside":
        what = work.Inside(
            tuple(parse_address(one) for one in target),
            gate,
            tuple(dict.fromkeys((*work.COMMON_PORTS, *port))),
            tuple(name),
            tuple(dns),
            metadata,
        )
    else:
        what = _outside(config, shut, api)
    err = Console(stderr=True, highlight=False)
    check_places(out)
    with err.status("probing") as status:
        report = work.probe(what, timeout_s, lambda text: status.update(escape(text)))
    told = json.dumps(report.as_json(), indent=1)
    if out is not None:
        write_whole(out, told.encode() + b"\n")
    if as_json:
        typer.echo(told)
    else:
        grid = Table(box=None, padding=(0, 2, 0, 0), title=None)
        for column in ("check", "target", "", "found"):
            grid.add_column(column)
        styles = {"hole": "bold red", "held": "green", "unknown": "yellow"}
        for one in report.findings:
            word = f"[{styles[one.result]}]{one.result}[/]"
            grid.add_row(one.check, escape(one.target), word, escape(one.detail))
        console = report_console()
        console.print(f"From {report.side}, {report.host}, {report.started}", markup=False)
        console.print(grid)
        console.print(f"{len(report.holes)} holes in {len(report.findings)} checks", markup=False)
    if report.holes:
        raise typer.Exit(1)


def _outside(config: Path | None, shut: Shut, api: list[str]) -> Outside:
    """What a configuration names beyond loopback, and what the command line names."""
    from narrows.deploy.config import load_config
    from narrows.errors import InputError
    from narrows.redteam.probe import Outside
    from narrows.wire.address import is_loopback, parse_address

    ports = [("named", parse_address(one)) for one in shut]
    apis = [parse_address(one) for one in api]
    if config is not None:
        told = load_config(config)
        gate, edge = told.gate, told.edge
        named = [("gate", (port.listen_host, port.listen_port)) for port in gate.ports]
        named += [("enclave", (port.enclave_host, port.enclave_port)) for port in gate.ports]
        if gate.state_port > 0:
            named.append(("state", (gate.state_host, gate.state_port)))
        if gate.witness:
            named.append(("witness", parse_address(gate.witness)))
        ports += [one for one in named if not is_loopback(one[1][0])]
        if not is_loopback(edge.listen_host):
            apis.append((edge.listen_host, edge.listen_port))
    for host, _ in [*(address for _, address in ports), *apis]:
        if host in ("0.0.0.0", "::"):
            raise InputError(
                f"{host} is every address of a machine, and none that a stranger dials",
                "leave --config out and name the addresses with --shut and --api",
            )
    return Outside(tuple(ports), tuple(apis))
