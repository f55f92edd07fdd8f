"""The outsider: a client of the edge, and someone at the gate's port who times what comes."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

TIMEOUT_S = 60.0
WORKERS = 8


@dataclass
class Reply:
    """What a client has of one answer. ``at_s``: when it was complete. ``pieces``: moment and
    delta of each chunk of a stream."""

    status: int = 0
    body: dict[str, Any] = field(default_factory=dict)
    at_s: float = 0.0
    took_s: float = 0.0
    pieces: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    @property
    def choice(self) -> dict[str, Any]:
        choices = self.body.get("choices") or [{}]
        return dict(choices[0])

    @property
    def message(self) -> dict[str, Any]:
        return dict(self.choice.get("message") or {})

    @property
    def text(self) -> str:
        return str(self.message.get("content") or "")

    @property
    def error(self) -> tuple[int, str]:
        """HTTP status and code."""
        return self.status, str((self.body.get("error") or {}).get("code") or "")


class Client:
    """Of the edge at ``address``."""

    def __init__(self, address: tuple[str, int], model: str, key: str = "") -> None:
        self._address, self._model = address, model
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def ask(self, prompt: str, **fields: Any) -> Reply:
        """One whole answer, or its error."""
        connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_S)
        began_s = time.monotonic()
        try:
            self._post(connection, prompt, fields)
            response = connection.getresponse()
            body = json.loads(response.read())
        finally:
            connection.close()
        now_s = time.monotonic()
        return Reply(response.status, body, now_s, now_s - began_s)

    def ask_all(self, prompts: Sequence[str], workers: int = WORKERS, **fields: Any) -> list[Reply]:
        """Several at a time, in the order of ``prompts``."""
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(lambda prompt: self.ask(prompt, **fields), prompts))

    def stream(self, prompt: str, **fields: Any) -> Reply:
        """One answer by chunks."""
        connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_S)
        reply = Reply()
        try:
            self._post(connection, prompt, fields | {"stream": True})
            response = connection.getresponse()
            reply.status = response.status
            for data in _events(response):
                choices = data.get("choices") or [{}]
                reply.pieces.append((time.monotonic(), dict(choices[0].get("delta") or {})))
        finally:
            connection.close()
        reply.at_s = time.monotonic()
        return reply

    def _post(
        self, connection: http.client.HTTPConnection, prompt: str, fields: dict[str, Any]
    ) -> None:
        body = {"model": self._model, "messages": [{"role": "user", "content": prompt}]} | fields
        headers = {"content-type": "application/json"} | self._headers
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    while line := response.readline():
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


@dataclass
class Seen:
    """What came on a connection: (moment, bytes) of every read, and when it ended."""

    reads: list[tuple[float, bytes]] = field(default_factory=list)
    ended_s: float | None = None

    @property
    def data(self) -> bytes:
        return b"".join(part for _, part in self.reads)


def watch(sock: socket.socket, seconds: float, want_bytes: int | None = None) -> Seen:
    """Read until the end, or for so long, or until so many bytes came."""
    seen, count = Seen(), 0
    deadline = time.monotonic() + seconds
    while (left_s := deadline - time.monotonic()) > 0:
        sock.settimeout(left_s)
        try:
            part = sock.recv(1 << 16)
        except TimeoutError:
            break
        except OSError:
            part = b""
        if not part:
            seen.ended_s = time.monotonic()
            break
        seen.reads.append((time.monotonic(), part))
        count += len(part)
        if want_bytes is not None and count >= want_bytes:
            break
    return seen
