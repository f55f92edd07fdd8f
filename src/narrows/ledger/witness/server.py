"""A witness over HTTP: a small threaded server, and the client that a gate uses.

    POST /add-checkpoint   c2sp.org/tlog-witness: "old N", proof lines, blank, checkpoint
    POST /latest           canonical JSON {"nonce", "origin"}; answers a signed note
    POST /recover          canonical JSON {"leaf", "note", "path"}, all hex
    POST /operators        canonical JSON {"leaf"}

Nothing is secret, and nothing is believed without a signature, so plain HTTP is enough; who
can reach the port can delay leases, never widen them; how little, see ``witness_slots`` for the
server and ``http_call`` for the client.

Statuses of add-checkpoint, as in C2SP: 404 a log that is not followed, 403 no signature of its
key, 400 malformed, 409 another size (then the size held is the body) or another root of the
same size, 422 whatever else is refused.
"""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from narrows.errors import BudgetError
from narrows.ledger.log import note
from narrows.ledger.log.canonical import MAX_INTEGER, Fields, decode, encode, unhex
from narrows.ledger.log.note import format_hashes, parse_hashes
from narrows.ledger.witness.slots import RequestReader, Slots
from narrows.ledger.witness.witness import (
    NONCE_BYTES,
    ForkError,
    UnknownLogError,
    Witness,
    WitnessError,
)
from narrows.wire.http_call import CallError, Connection, HttpReply, printable

MAX_BODY_BYTES = 1 << 18
MAX_REQUEST_BYTES = MAX_BODY_BYTES + (1 << 16)
IDLE_TIMEOUT_S = 60.0  # to bring the next request as a whole
ANSWER_TIMEOUT_S = 10.0  # to take its answer
MAX_ERROR_CHARS = 500
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")  # not isdigit: it takes superscripts, int does not
_LENGTH = re.compile(r"[0-9]{1,7}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_TIMEOUT_S
    disable_nagle_algorithm = True
    server: WitnessServer

    def setup(self) -> None:
        super().setup()
        self._reader = RequestReader(self.connection)
        self.rfile = io.BufferedReader(self._reader)

    def handle_one_request(self) -> None:
        self._reader.allow(IDLE_TIMEOUT_S, MAX_REQUEST_BYTES)
        super().handle_one_request()

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if _LENGTH.fullmatch(length) is None or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            self._answer(413, b"no length, or too long\n")
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            return
        self.server.slots.mark(self.connection, busy=True)
        try:
            self._carry_out(body)
        finally:
            self.server.slots.mark(self.connection, busy=False)

    def _carry_out(self, body: bytes) -> None:
        try:
            answer = self._call(body)
        except UnknownLogError as error:
            self._answer(404, f"{error}\n".encode())
        except ForkError as error:
            self._answer(409, f"{error}\n".encode())
        except WitnessError as error:
            if error.size is not None:
                self._answer(409, f"{error.size}\n".encode(), "text/x.tlog.size")
            else:
                self._answer(422, f"{error}\n".encode())
        except note.SignatureError as error:
            self._answer(403, f"{error}\n".encode())
        except (BudgetError, ValueError) as error:
            self._answer(400, f"{error}\n".encode())
        else:
            self._answer(200, answer)

    def _call(self, body: bytes) -> bytes:
        witness = self.server.witness
        if self.path == "/add-checkpoint":
            old, proof, signed = parse_add_checkpoint(body)
            return witness.cosign(old, proof, signed)
        fields = Fields(decode(body, MAX_BODY_BYTES), "request")
        if self.path == "/latest":
            origin, nonce = fields.text("origin"), fields.hex("nonce", NONCE_BYTES)
            fields.done()
            return witness.latest(origin, nonce)
        leaf = _hex_field(fields, "leaf")
        if self.path == "/operators":
            fields.done()
            witness.set_operators(leaf)
            return b""
        if self.path == "/recover":
            path = [unhex(h, 32) or b"" for h in fields.items("path", 63)]
            signed = _hex_field(fields, "note")
            fields.done()
            return witness.recover(leaf, path, signed)
        raise ValueError("no such path")

    def _answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.connection.settimeout(ANSWER_TIMEOUT_S)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: they come at the rate of leases."""


class WitnessServer(ThreadingHTTPServer):
    """``serve_forever`` in a thread or process of its own; ``server_address`` is the bound one."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], witness: Witness) -> None:
        self.witness = witness
        self.slots = Slots()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.slots.enter(request, client_address[0]):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self.slots.leave(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.slots.leave(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or timed out, is no event."""


def parse_add_checkpoint(body: bytes) -> tuple[int, list[bytes], bytes]:
    """tlog-witness's request: old size, proof, checkpoint. Errors: ``NoteError``."""
    head, blank, signed = body.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise note.NoteError("a request is not ASCII") from error
    word, _, size = lines[0].partition(" ")
    if not blank or word != "old" or _SIZE.fullmatch(size) is None:
        raise note.NoteError("a request does not start with the old size")
    return int(size), parse_hashes(lines[1:]), signed


class HttpWitness:
    """A ``WitnessClient`` over one kept connection; thread-safe. ``verifier``: the pinned key.
    ``timeout_s``: of one call, from connecting to its last byte. ``heard``: how long each call
    took, in seconds. Errors: ``WitnessError``."""

    def __init__(
        self,
        host: str,
        port: int,
        verifier: note.Verifier,
        timeout_s: float = 5.0,
        heard: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.verifier = verifier
        self._heard = heard
        self._host, self._port, self._timeout_s = host, port, timeout_s
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def cosign(self, old: int, proof: list[bytes], signed: bytes) -> bytes:
        body = f"old {old}\n{format_hashes(proof)}\n".encode() + signed
        return self._post("/add-checkpoint", body)

    def latest(self, origin: str, nonce: bytes) -> bytes:
        return self._post("/latest", encode({"origin": origin, "nonce": nonce.hex()}))

    def recover(self, leaf: bytes, path: list[bytes], signed: bytes) -> bytes:
        hashes = [h.hex() for h in path]
        body = encode({"leaf": leaf.hex(), "note": signed.hex(), "path": hashes})
        return self._post("/recover", body)

    def set_operators(self, leaf: bytes) -> None:
        self._post("/operators", encode({"leaf": leaf.hex()}))

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _post(self, path: str, body: bytes) -> bytes:
        began_s = time.monotonic()
        try:
            return self._answer(path, body, began_s + self._timeout_s)
        finally:
            self._heard(time.monotonic() - began_s)

    def _answer(self, path: str, body: bytes, deadline: float) -> bytes:
        with self._lock:
            kept = self._connection is not None and not self._connection.gone()
            try:
                answer = self._exchange(path, body, deadline)
            except CallError as error:
                self._drop()
                if not kept or time.monotonic() >= deadline:
                    raise self._unreachable(error) from error
                try:  # a kept connection may have timed out at the other end: once more
                    answer = self._exchange(path, body, deadline)
                except CallError as again:
                    self._drop()
                    raise self._unreachable(again) from again
        if answer.status == 200:
            return answer.body
        text = answer.body.decode("utf-8", "replace").removesuffix("\n")
        if answer.status == 409 and _SIZE.fullmatch(text) and int(text) <= MAX_INTEGER:
            raise WitnessError(f"the witness is at size {text}", size=int(text))
        raise WitnessError(f"the witness refused: {printable(text, MAX_ERROR_CHARS)}")

    def _exchange(self, path: str, body: bytes, deadline: float) -> HttpReply:
        if self._connection is not None and self._connection.gone():
            self._drop()
        if self._connection is None:
            self._connection = Connection(self._host, self._port, deadline)
        return self._connection.post(path, body, "text/plain", MAX_BODY_BYTES, deadline)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _unreachable(self, error: CallError) -> WitnessError:
        return WitnessError(
            f"no witness at {self._host}:{self._port}: {error}", "start narrows witness"
        )


def _hex_field(fields: Fields, name: str) -> bytes:
    text = fields.text(name, MAX_BODY_BYTES)
    raw = unhex(text, len(text) // 2)
    if raw is None:
        raise fields.bad(name)
    return raw
