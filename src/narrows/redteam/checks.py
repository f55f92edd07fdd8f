"""Single checks of a probe: each tries one thing, says ``held``, ``hole`` or ``unknown``, and what
it saw."""

from __future__ import annotations

import errno
import http.client
import json
import secrets
import socket
import ssl
import struct
from collections.abc import Sequence
from pathlib import Path

MAX_ANSWER_BYTES = 4096
Address = tuple[str, int]
Outcome = tuple[str, str]
_UNREACHABLE = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.EACCES,
    errno.EPERM,
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
    errno.ETIMEDOUT,
}


def reach(address: Address, timeout_s: float) -> Outcome:
    """A TCP connection."""
    try:
        socket.create_connection(address, timeout_s).close()
    except ConnectionRefusedError:
        return "hole", "refused: the way there is open"
    except TimeoutError:
        return "held", "no answer"
    except socket.gaierror:
        return "held", "the name does not resolve"
    except OSError as error:
        return _by_error(error)
    return "hole", "connected"


def send_datagram(address: Address, timeout_s: float) -> Outcome:
    """A datagram, and whether anything comes back; that one leaves cannot be seen from here."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(address)
            sock.send(b"narrows probe")
            sock.recv(MAX_ANSWER_BYTES)
    except ConnectionRefusedError:
        return "hole", "refused: the way there is open"
    except TimeoutError:
        return "unknown", "sent, and no answer: look at the target whether it came"
    except OSError as error:
        return _by_error(error)
    return "hole", "answered"


def resolve(name: str) -> Outcome:
    """A name, by the machine's own resolver."""
    try:
        found = socket.getaddrinfo(name, None)
    except OSError as error:
        return "held", str(error)[:100]
    return "hole", f"resolves to {found[0][4][0]}"


def ask_resolver(resolver: str, name: str, timeout_s: float) -> Outcome:
    """A DNS query over UDP."""
    query = struct.pack(">HHHHHH", secrets.randbits(16), 0x0100, 1, 0, 0, 0)
    for label in filter(None, name.split(".")):
        word = label.encode("ascii", "replace")[:63]
        query += bytes([len(word)]) + word
    query += b"\x00\x00\x01\x00\x01"
    family = socket.AF_INET6 if ":" in resolver else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect((resolver, 53))
            sock.send(query)
            sock.recv(MAX_ANSWER_BYTES)
    except ConnectionRefusedError:
        return "hole", "refused: the way there is open"
    except TimeoutError:
        return "held", "no answer"
    except OSError as error:
        return _by_error(error)
    return "hole", "answered"


def open_raw() -> Outcome:
    """Whether this process may make frames of its own."""
    kinds = (
        ("packet", socket.AF_PACKET, socket.SOCK_RAW, 0),
        ("ICMP", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        ("ICMPv6", socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
    )
    opened = []
    for name, family, kind, protocol in kinds:
        try:
            socket.socket(family, kind, protocol).close()
        except OSError:
            continue
        opened.append(name)
    if opened:
        return "hole", f"{', '.join(opened)} sockets open: run it as the enclave's user"
    return "held", "none opens"


def default_route(table: Path) -> Outcome:
    """Whether there is a way to everywhere, by IPv4."""
    rows = [line.split() for line in _lines(table)[1:]]
    found = [row[0] for row in rows if len(row) > 7 and row[1] == row[7] == "00000000"]
    return _route(found)


def default_route6(table: Path) -> Outcome:
    """The same, by IPv6."""
    rows = [line.split() for line in _lines(table)]
    found = [
        row[9]
        for row in rows
        if len(row) > 9 and row[0] == "0" * 32 and row[1] == "00" and row[9] != "lo"
    ]
    return _route(found)


def _route(devices: Sequence[str]) -> Outcome:
    if devices:
        return "hole", f"a default route over {', '.join(sorted(set(devices)))}"
    return "held", "no default route"


def _lines(table: Path) -> list[str]:
    try:
        return table.read_text("ascii", "replace").splitlines()
    except OSError:
        return []  # no such protocol in this kernel


def stranger(address: Address, timeout_s: float) -> Outcome:
    """A port that one peer alone may reach; and what it says to someone without a key."""
    try:
        sock = socket.create_connection(address, timeout_s)
    except ConnectionRefusedError:
        return "held", "refused"
    except TimeoutError:
        return "held", "no answer"
    except OSError as error:
        return _by_error(error)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        sock.settimeout(timeout_s)
        with context.wrap_socket(sock, server_hostname="gate") as tls:
            said = tls.recv(MAX_ANSWER_BYTES)
    except (OSError, ValueError):
        return "hole", "a stranger connects; without a key nothing was said"
    finally:
        sock.close()
    if said:
        return "hole", f"a stranger connects, and {len(said)} bytes were said without a key"
    return "hole", "a stranger connects; without a key nothing was said"


def without_key(address: Address, timeout_s: float) -> Outcome:
    """An edge, asked without an API key."""
    connection = http.client.HTTPConnection(*address, timeout=timeout_s)
    body = {"messages": [{"role": "user", "content": "probe"}], "max_tokens": 1}
    try:
        connection.request(
            "POST",
            "/v1/chat/completions",
            json.dumps(body),
            {"content-type": "application/json"},
        )
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return "unknown", f"no answer: {error}"[:100]
    finally:
        connection.close()
    if status in (401, 403):
        return "held", f"asks for a key ({status})"
    if status == 200:
        return "hole", "answers without a key"
    return "unknown", f"says {status}"


def _by_error(error: OSError) -> Outcome:
    why = error.strerror or str(error)
    return ("held", why) if error.errno in _UNREACHABLE else ("unknown", why)
