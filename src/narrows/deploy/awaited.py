"""Whether what ``narrows up`` started serves: the edge's own health says so.

"Serving" is printed when an answer has come all the way from the strong model, and what is waited
for is said meanwhile: a model server may load for minutes, or not run at all.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from narrows.deploy.config import Config

TIMEOUT_S = 5.0
MAX_HEALTH_BYTES = 1 << 16
PATIENCE_S = 3.0  # what passes sooner is not worth a line


class Awaited:
    """``look`` until it is true; it says on ``err`` what is waited for, each thing once."""

    def __init__(
        self,
        config: Config,
        port: int,
        state: Path,
        err: Console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._port, self._state, self._err = config, port, state, err
        self._clock = clock
        self._since_s = clock()
        self._said = ""

    def look(self) -> bool:
        edge = self._config.edge
        health = read_health(edge.listen_host, self._port, edge.https is not None)
        if health.get("status") == "ok":
            return True
        why = self._why(health)
        if why != self._said and self._clock() - self._since_s > PATIENCE_S:
            self._err.print(why, markup=False)
            self._said = why
        return False

    def _why(self, health: dict[str, Any]) -> str:
        if health.get("gate", "ok") != "ok":
            return f"Not serving yet: the gate lets nothing out (state: {health['gate']})."
        if health.get("link") != "up":
            return "Not serving yet: there is no link to the enclave."
        upstream = self._config.enclave.upstream
        if upstream is None:
            return (
                "Not serving yet: the strong model is being read. The first start compiles kernels."
            )
        return (
            f"Not serving yet: the model server at {upstream.url} has not answered. It is asked "
            f"again until it does; what it says is in {self._state}/log/enclave.log"
        )


def read_health(host: str, port: int, tls: bool = False) -> dict[str, Any]:
    """What /healthz says; empty where the edge does not answer in time."""
    address = reached(host).strip("[]")
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT_S)
    if tls:
        # Its certificate names the host that clients know, not this address; no secret is sent.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(address, port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request("GET", "/healthz")
        health = json.loads(connection.getresponse().read(MAX_HEALTH_BYTES))
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    finally:
        connection.close()
    return health if isinstance(health, dict) else {}


def reached(host: str) -> str:
    """How this machine reaches what listens on ``host``, as a URL has it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return host if address.version == 4 else f"[{host}]"
