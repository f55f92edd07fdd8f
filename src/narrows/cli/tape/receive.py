"""``narrows tape receive``: the auditor's end of a haul."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.tape.options import CertOption, KeyOption, PeerOption

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: narrows tape receive --folder spool --listen 10.3.0.2:8411 "
    "--cert-file auditor.crt --key-file auditor.key --peer-file gate.crt"
)
def receive(
    folder: Annotated[Path, typer.Option(help="Where the copy lies; made if missing.")],
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 takes a free one.")],
    cert_file: CertOption = None,
    key_file: KeyOption = None,
    peer_file: PeerOption = None,
    max_size: Annotated[str, typer.Option(help="Of all files, as 2GB.")] = "2GB",
    max_age_s: Annotated[float, typer.Option(help="Older files are removed.", min=60)] = 604_800,
) -> None:
    """Keep a copy of a gate's spool for the auditor beside it, which reads this folder.

    Prints one JSON line when it listens. It answers each connection with 63 bytes, what it has,
    and says nothing more. What does not fit waits at the gate; files that the gate has removed
    are removed here.
    """
    import json

    from narrows.cli.tape.options import say, tls_files
    from narrows.sizes import size_bytes
    from narrows.wire.address import parse_address
    from narrows.wire.spool.receive import MIN_COPY_BYTES, SpoolCopy, serve_copy

    address = parse_address(listen)
    tls = tls_files(address[0], cert_file, key_file, peer_file)
    most = size_bytes(max_size, "--max-size", MIN_COPY_BYTES)
    copy = SpoolCopy(folder, max_bytes=most, max_age_s=max_age_s)
    serve_copy(
        copy, tls, address, lambda port: typer.echo(json.dumps({"ready": True, "port": port})), say
    )
