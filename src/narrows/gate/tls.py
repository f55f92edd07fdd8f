"""TLS 1.3 toward the edge, over memory, so that every ciphertext byte is counted and paid
before a socket sees it. No name, nonce or certificate of the enclave comes near it.
"""

from __future__ import annotations

import contextlib
import ssl

from narrows.errors import PeerError
from narrows.wire.padding import TLS_RECORD_OVERHEAD_BYTES, TLS_RECORD_PAYLOAD_BYTES
from narrows.wire.pins import TlsFiles, check_peer, read_pins, server_context

MAX_HANDSHAKE_BYTES = 1 << 16
_READ_BYTES = 1 << 18


class TlsServer:
    """The gate's identity: makes one pipe per connection."""

    def __init__(self, files: TlsFiles) -> None:
        self._context = server_context(files.cert_file, files.key_file, files.peer_file)
        self._pins = read_pins(files.peer_file)

    def pipe(self) -> TlsPipe:
        return TlsPipe(self._context, self._pins)


class TlsPipe:
    """One connection's TLS. Bytes it wants sent lie in ``take_outgoing``, sent by no one
    else. ``established`` only after the peer's key was compared with the pins."""

    def __init__(self, context: ssl.SSLContext, pins: frozenset[bytes]) -> None:
        self.established = False
        self._pins = pins
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def receive(self, data: bytes) -> bytes:
        """Feed what came from the edge; the plaintext in it. ``PeerError`` ends the link."""
        if not self.established and self._incoming.pending + len(data) > MAX_HANDSHAKE_BYTES:
            raise PeerError("a TLS handshake that does not end")
        self._incoming.write(data)
        try:
            if not self.established:
                self._tls.do_handshake()
                check_peer(self._tls, self._pins)
                self.established = True
            return self._read()
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLError as error:
            raise PeerError("the edge's TLS failed") from error

    def _read(self) -> bytes:
        parts: list[bytes] = []
        while True:
            try:
                part = self._tls.read(_READ_BYTES)
            except ssl.SSLWantReadError:
                return b"".join(parts)
            if not part:
                raise PeerError("the edge closed its TLS")
            parts.append(part)

    def encrypt(self, payload: bytes) -> None:
        """Put ``payload`` into the outgoing bytes."""
        try:
            written = self._tls.write(payload)
        except ssl.SSLError as error:
            raise PeerError("the link's TLS failed") from error
        if written != len(payload):
            raise PeerError("the link's TLS took only a part")

    def finish(self) -> None:
        """Put the end of TLS into the outgoing bytes; the peer's own is not waited for."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()

    def take_outgoing(self) -> bytes:
        """Ciphertext, alerts and handshake bytes to pay for and then send."""
        return self._outgoing.read()

    @staticmethod
    def wire_bytes(payload_bytes: int) -> int:
        """Ciphertext of a payload. An estimate for planning; the meter counts real bytes."""
        records = -(-payload_bytes // TLS_RECORD_PAYLOAD_BYTES)
        return payload_bytes + records * TLS_RECORD_OVERHEAD_BYTES
