"""What both ends of a haul are told alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from narrows.errors import InputError

if TYPE_CHECKING:
    from narrows.wire.pins import TlsFiles

CertOption = Annotated[Path | None, typer.Option(help="This side's certificate.")]
KeyOption = Annotated[Path | None, typer.Option(help="Its key.")]
PeerOption = Annotated[Path | None, typer.Option(help="Certificates of the other side.")]


def tls_files(
    host: str, cert_file: Path | None, key_file: Path | None, peer_file: Path | None
) -> TlsFiles | None:
    """None: loopback without TLS. Errors: ``InputError``."""
    from narrows.wire.address import is_loopback
    from narrows.wire.pins import TlsFiles

    if cert_file is not None and key_file is not None and peer_file is not None:
        return TlsFiles(cert_file, key_file, peer_file)
    if cert_file is not None or key_file is not None or peer_file is not None:
        raise InputError("--cert-file, --key-file and --peer-file belong together")
    if not is_loopback(host):
        raise InputError(
            f"{host} is not loopback: the spool needs TLS",
            "give --cert-file, --key-file and --peer-file; 'narrows init' makes identities",
        )
    return None


def say(text: str) -> None:
    typer.echo(f"narrows tape: {text}", err=True)
