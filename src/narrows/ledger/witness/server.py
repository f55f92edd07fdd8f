"""A witness over HTTP: a small threaded server, and the client that a gate uses.

    POST /add-checkpoint   c2sp.org/tlog-witness: "old N", proof lines, blank, checkpoint
    POST /latest           canonical JSON {"nonce", "origin"}; answers a signed note
    POST /recover          canonical JSON {"leaf", "note", "path"}, all hex
    POST /operators        canonical JSON {"leaf"}

Nothing is secret, and nothing is believed without a signature, so plain HTTP is enough; who
can reach the port can delay leases, never widen them. Bodies are bounded before they are read,
idle connections time out, and the number of connections is bounded.
"""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from narrows.errors import BudgetError
from narrows.ledger.log import note
from narrows.ledger.log.canonical import Fields, decode, encode, unhex
from narrows.ledger.log.note import format_hashes, parse_hashes
from narrows.ledger.witness.witness import NONCE_BYTES, Witness, WitnessError

MAX_BODY_BYTES = 1 << 18
MAX_CONNECTIONS = 256
IDLE_TIMEOUT_S = 60.0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_TIMEOUT_S
    disable_nagle_algorithm = True
    server: WitnessServer

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or len(length) > 7 or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            self._answer(413, b"no length, or too long\n")
            return
        body = self.rfile.read(int(length))
        try:
            answer = self._call(body)
        except WitnessError as error:
            if error.size is not None:
                self._answer(409, f"{error.size}\n".encode(), "text/x.tlog.size")
            else:
                self._answer(422, f"{error}\n".encode())
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
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

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
    if not blank or word != "old" or not size.isdigit() or len(size) > 19:
        raise note.NoteError("a request does not start with the old size")
    if str(int(size)) != size:
        raise note.NoteError("a size is not in canonical form")
    return int(size), parse_hashes(lines[1:]), signed


class HttpWitness:
    """A ``WitnessClient`` over one kept connection; thread-safe. ``verifier``: the pinned key."""

    def __init__(
        self, host: str, port: int, verifier: note.Verifier, timeout_s: float = 5.0
    ) -> None:
        self.verifier = verifier
        self._host, self._port, self._timeout_s = host, port, timeout_s
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None

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
        with self._lock:
            fresh = self._connection is None
            try:
                status, answer = self._exchange(path, body)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                if fresh:
                    raise self._unreachable(error) from error
                try:  # a kept connection may have timed out at the other end: once more
                    status, answer = self._exchange(path, body)
                except (OSError, http.client.HTTPException) as again:
                    self._drop()
                    raise self._unreachable(again) from again
        if status == 200:
            return answer
        text = answer.decode("utf-8", "replace").strip()
        if status == 409 and text.isdigit() and len(text) <= 19:
            raise WitnessError(f"the witness is at size {text}", size=int(text))
        raise WitnessError(f"the witness refused: {text[:500]}")

    def _exchange(self, path: str, body: bytes) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(
                self._host, self._port, timeout=self._timeout_s
            )
        self._connection.request("POST", path, body)
        response = self._connection.getresponse()
        answer = response.read(MAX_BODY_BYTES + 1)
        if len(answer) > MAX_BODY_BYTES:
            raise http.client.HTTPException("the answer is too long")
        return response.status, answer

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _unreachable(self, error: Exception) -> WitnessError:
        return WitnessError(
            f"no witness at {self._host}:{self._port}: {error}", "start narrows witness"
        )


def _hex_field(fields: Fields, name: str) -> bytes:
    text = fields.text(name, MAX_BODY_BYTES)
    raw = unhex(text, len(text) // 2)
    if raw is None:
        raise fields.bad(name)
    return raw
