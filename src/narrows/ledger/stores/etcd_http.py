"""Requests to an etcd cluster through its JSON gateway, over HTTP/1.1.

A *read* is asked of each member in turn until one answers. A *write* goes to the next member
only while nothing of it can have been sent; after that, whatever fails leaves its outcome
unknown (``StoreError``), and it is not sent again: two copies could both be carried out.

A request to one member has one deadline, and every answer a bound (``http_call``).
"""

from __future__ import annotations

import base64
import binascii
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from narrows.errors import BudgetError, InputError
from narrows.ledger.log.canonical import is_name
from narrows.ledger.stores.store import StoreError
from narrows.wire.address import is_loopback
from narrows.wire.http_call import CallError, Connection, HttpReply, printable

MAX_ANSWER_BYTES = 32 << 20
MAX_ENDPOINTS = 16
MAX_ERROR_CHARS = 300


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """``endpoints``: http(s)://HOST:PORT of each member; https beyond loopback. ``prefix``: under
    which keys one ledger lies. ``timeout_s``: of one request to one member. The three PEM files
    go with https: who signs the members' certificates, and this client's own."""

    endpoints: tuple[str, ...] = ("http://127.0.0.1:2379",)
    prefix: str = "narrows"
    timeout_s: float = 3.0
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def problems(self) -> list[str]:
        """Everything that is wrong with it."""
        problems = []
        if not 1 <= len(self.endpoints) <= MAX_ENDPOINTS:
            problems.append(f"etcd has 1..{MAX_ENDPOINTS} endpoints, not {len(self.endpoints)}")
        for text in self.endpoints:
            parts = _split(text)
            if parts is None:
                problems.append(f"endpoint {text!r} is not http(s)://HOST:PORT")
            elif parts[0] == "http" and not is_loopback(parts[1]):
                problems.append(f"endpoint {text!r} is beyond loopback without TLS")
            elif parts[0] == "https" and None in (self.ca_file, self.cert_file, self.key_file):
                problems.append(f"endpoint {text!r} needs ca_file, cert_file and key_file")
        if not is_name(self.prefix):
            problems.append(f"prefix {self.prefix!r} is no name")
        if not 0.1 <= self.timeout_s <= 60:
            problems.append(f"timeout_s is {self.timeout_s}, must be 0.1..60")
        return problems

    def check(self) -> EtcdConfig:
        """Itself, or ``InputError`` with every problem."""
        if problems := self.problems():
            raise InputError("the etcd configuration is wrong", problems=tuple(problems))
        return self


def _split(endpoint: str) -> tuple[str, str, int] | None:
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    rest = parts.path.strip("/") + parts.query + parts.fragment + (parts.username or "")
    if parts.scheme not in ("http", "https") or not host or not port or rest:
        return None
    return parts.scheme, host, port


def encode_bytes(data: bytes) -> str:
    """Keys and values as the gateway has them."""
    return base64.b64encode(data).decode()


def decode_bytes(text: object) -> bytes:
    """The inverse; None, a field that is not there, is empty. ``StoreError`` for all else."""
    if text is None:
        return b""
    if not isinstance(text, str):
        raise StoreError("etcd's answer holds something else than base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise StoreError("etcd's answer holds broken base64") from error


Announce = Callable[[int], None]


class EtcdClient:
    """One connection at a time, kept; thread-safe. ``announce`` hears how many bytes of a
    request are about to be sent, before each time that they are."""

    def __init__(self, config: EtcdConfig, announce: Announce = lambda size_bytes: None) -> None:
        config.check()
        self._announce = announce
        self._endpoints = [parts for text in config.endpoints if (parts := _split(text))]
        self._timeout_s = config.timeout_s
        self._tls = _tls_context(config)
        self._lock = threading.Lock()
        self._current = 0
        self._connection: Connection | None = None

    def read(self, path: str, request: object) -> dict[str, Any]:
        """Ask the members in turn. ``StoreError`` where none answers."""
        return self._call(path, request, again=True)

    def write(self, path: str, request: object) -> dict[str, Any]:
        """``StoreError``: the outcome is unknown."""
        return self._call(path, request, again=False)

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _call(self, path: str, request: object, again: bool) -> dict[str, Any]:
        body, failures = json.dumps(request).encode(), []
        with self._lock:
            for _ in self._endpoints:
                deadline = time.monotonic() + self._timeout_s
                try:
                    connection = self._connected(deadline)
                except CallError as error:
                    failures.append(self._failed(error))
                    continue
                self._announce(len(body))
                try:
                    return _document(
                        connection.post(path, body, "application/json", MAX_ANSWER_BYTES, deadline)
                    )
                except CallError as error:
                    failures.append(self._failed(error))
                    if not again:
                        break
        raise StoreError(f"etcd: {'; '.join(failures)}"[:2000], "see its members' health")

    def _connected(self, deadline: float) -> Connection:
        """A connection on which nothing has been sent that waits for an answer."""
        if self._connection is not None and self._connection.gone():
            self._drop()  # its member was restarted: noticed here, a write is not lost to it
        if self._connection is None:
            scheme, host, port = self._endpoints[self._current]
            tls = self._tls if scheme == "https" else None
            self._connection = Connection(host, port, deadline, tls)
        return self._connection

    def _failed(self, error: CallError) -> str:
        _, host, port = self._endpoints[self._current]
        self._drop()
        self._current = (self._current + 1) % len(self._endpoints)
        return f"{host}:{port}: {printable(str(error), MAX_ERROR_CHARS)}"

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _document(answer: HttpReply) -> dict[str, Any]:
    """The answer's JSON object. ``CallError`` where it has none, or the member refused."""
    try:
        document = json.loads(answer.body, parse_constant=_no, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise CallError(f"status {answer.status}: no JSON") from error
    if answer.status != 200 or not isinstance(document, dict):
        # 3.4 says it in both fields, 3.6 in ``message`` alone
        fields = document if isinstance(document, dict) else {}
        texts = [t for t in map(fields.get, ("error", "message")) if isinstance(t, str)]
        said = printable(texts[0], MAX_ERROR_CHARS) if texts else "no reason"
        raise CallError(f"status {answer.status}: {said}")
    return document


def _no(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a field is there twice")
    return document


def _tls_context(config: EtcdConfig) -> ssl.SSLContext | None:
    if config.ca_file is None or config.cert_file is None or config.key_file is None:
        return None
    try:
        context = ssl.create_default_context(cafile=str(config.ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(config.cert_file, config.key_file)
    except (OSError, ssl.SSLError) as error:
        raise BudgetError(f"no TLS identity for etcd: {error}") from error
    return context
