"""Addresses as people write them: ``host:port``, ``[v6]:port``. Read and written here alone."""

from __future__ import annotations

import ipaddress
import re

from narrows.errors import InputError

_PORT = re.compile("0|[1-9][0-9]{0,4}", re.ASCII)  # bounded before int() sees it


def parse_address(text: str) -> tuple[str, int]:
    """Host and port, 0..65535; port 0 asks the system for a free one. ``InputError`` for
    anything else."""
    host, separator, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    wrong = not separator or not bare or "[" in bare or "]" in bare
    if wrong or _PORT.fullmatch(port) is None or int(port) > 65535:
        raise InputError(f"{text[:200]!r} is no address", "write host:port, as in 127.0.0.1:8400")
    return bare, int(port)


def shown_address(host: str, port: int) -> str:
    """As ``parse_address`` reads it."""
    return f"{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """A host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to ``host``; a name other than ``localhost`` is
    not taken for it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
