"""Addresses as people write them: ``host:port``, ``[v6]:port``."""

from __future__ import annotations

import ipaddress
import re

from narrows.errors import InputError


def parse_address(text: str) -> tuple[str, int]:
    """Host and port; port 0 asks the system for a free one. Raises InputError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or re.fullmatch(r"[0-9]{1,5}", port) is None or int(port) > 65535:
        raise InputError(f"{text!r} is no address", "write host:port, as in 127.0.0.1:8400")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
