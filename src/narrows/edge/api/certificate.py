"""The API's own certificate: read once, checked whole, held as the very bytes that are served.

The files may change at any moment, so what was checked is kept in memory files of this process,
and the server reads those. A pair that would fail every client is refused, with its reason.

granian aborts the whole process over a pair that its TLS library does not take (a curve, a
critical extension), and no list of ours could name them all. So a child process tries each pair
before it is used.
"""

from __future__ import annotations

import datetime
import os
import re
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cryptography import x509

from narrows.durable import read_with_mode
from narrows.edge.config import HttpsFiles
from narrows.errors import InputError

MAX_PEM_BYTES = 1 << 18
TRIAL_S = 60.0
_SERVER = "narrows.edge.api.granian_server"


@dataclass(frozen=True, slots=True)
class Certificate:
    """``chain`` and ``key``: PEM."""

    chain: bytes
    key: bytes


@contextmanager
def held(certificate: Certificate) -> Iterator[tuple[str, str]]:
    """Names of two files, chain and key, that only this process and its children can open."""
    files = [_memory_file(certificate.chain), _memory_file(certificate.key)]
    try:
        yield f"/proc/self/fd/{files[0]}", f"/proc/self/fd/{files[1]}"
    finally:
        for file in files:
            os.close(file)


def load_certificate(files: HttpsFiles, now: datetime.datetime) -> Certificate:
    """Raises InputError: unreadable, too large, no pair, a key that is encrypted or that everyone
    on this machine can read, a certificate that is not valid ``now``."""
    found = Certificate(_read(files.cert_file), _read(files.key_file, secret=True))
    try:
        leaf = x509.load_pem_x509_certificates(found.chain)[0]
    except ValueError as error:
        raise InputError(f"{files.cert_file} holds no certificate in PEM") from error
    first, last = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if not first <= now <= last:
        span = f"from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
        raise InputError(f"the certificate in {files.cert_file} is valid {span}, not now")
    with held(found) as paths:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*paths, password=_no_password)
        except (OSError, ssl.SSLError) as error:
            where = f"{files.key_file} is not the key of {files.cert_file}"
            raise InputError(f"{where}, or the server takes none like it: {error}") from error
    return found


def try_certificate(certificate: Certificate) -> None:
    """Start a server with it, in a process of its own. Raises InputError where that fails."""
    with held(certificate) as paths:
        files = [int(path.rpartition("/")[2]) for path in paths]
        try:
            tried = subprocess.run(
                [sys.executable, "-m", _SERVER, *paths],
                pass_fds=files,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=TRIAL_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise InputError(f"the certificate could not be tried: {error}") from error
    if tried.returncode != 0:
        said = re.search(rb"`Err` value: (.{1,200})", tried.stderr)
        why = said[1].decode("ascii", "replace") if said else f"exit status {tried.returncode}"
        raise InputError(
            f"the server does not take the certificate: {why}",
            "keys may be RSA of 2048 to 4096 bits, P-256, P-384 or Ed25519",
        )


def _read(path: Path, secret: bool = False) -> bytes:
    data, mode = read_with_mode(path, MAX_PEM_BYTES, follow_links=True)  # renewals turn links
    if secret and mode & stat.S_IRWXO:
        raise InputError(f"everyone on this machine may read {path}", f"chmod o-rwx {path}")
    return data


def _memory_file(data: bytes) -> int:
    file = os.memfd_create("certificate", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(file), "wb") as writer:
        writer.write(data)
    return file


def _no_password() -> NoReturn:
    """Else OpenSSL would ask on the terminal, and wait."""
    raise InputError("the key is encrypted", "the edge has no password; give it a plain key")
