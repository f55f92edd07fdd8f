"""Frames of one size, for constant pacing: what was sent and what is padding looks alike
in length on the wire, and the far end takes the padding off (ISO/IEC 7816-4, method 2).

    frame = payload . 0x80 . 0x00 * k        1 <= len(frame) - len(payload)

so a frame of n bytes carries 0..n-1 bytes of payload, unambiguously.
"""

from __future__ import annotations

from narrows.errors import LinkError

TLS_RECORD_PAYLOAD_BYTES = 16_384
TLS_RECORD_OVERHEAD_BYTES = 22  # TLS 1.3: header 5, content type 1, tag 16
_RECORD_BYTES = TLS_RECORD_PAYLOAD_BYTES + TLS_RECORD_OVERHEAD_BYTES


def tls_payload_bytes(wire_bytes: int) -> int:
    """The most plaintext whose TLS 1.3 records fit in ``wire_bytes``."""
    whole, rest = divmod(wire_bytes, _RECORD_BYTES)
    return whole * TLS_RECORD_PAYLOAD_BYTES + max(0, rest - TLS_RECORD_OVERHEAD_BYTES)


def fits_tls(constant_bytes: int) -> bool:
    """Whether TLS records can fill so many bytes exactly."""
    rest = constant_bytes % _RECORD_BYTES
    return constant_bytes > 0 and (rest == 0 or rest > TLS_RECORD_OVERHEAD_BYTES)


def frame_bytes(constant_bytes: int, tls: bool) -> int:
    """Size of a padded frame where a tick sends ``constant_bytes`` on the wire. ``ValueError``
    where TLS records cannot fill it."""
    if not tls:
        return constant_bytes
    if not fits_tls(constant_bytes):
        raise ValueError(f"TLS records cannot fill {constant_bytes} bytes exactly")
    return tls_payload_bytes(constant_bytes)


def pad(payload: bytes, size_bytes: int) -> bytes:
    """``payload`` in a frame of ``size_bytes``; at most ``size_bytes - 1`` bytes fit."""
    if len(payload) >= size_bytes:
        raise ValueError(f"{len(payload)} bytes do not fit in a frame of {size_bytes}")
    return (payload + b"\x80").ljust(size_bytes, b"\x00")


class ConstantUnframer:
    """Takes frames apart at the edge. Holds less than one frame between calls."""

    def __init__(self, frame_size_bytes: int) -> None:
        if frame_size_bytes < 2:
            raise ValueError("a frame has at least two bytes")
        self._size = frame_size_bytes
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The payload of every frame that ``data`` completes; ``LinkError`` on bad padding."""
        data = self._rest + data
        whole = len(data) - len(data) % self._size
        self._rest = data[whole:]
        return b"".join(
            _unpad(data[start : start + self._size]) for start in range(0, whole, self._size)
        )


def _unpad(frame: bytes) -> bytes:
    stripped = frame.rstrip(b"\x00")
    if not stripped.endswith(b"\x80"):
        raise LinkError("a constant-pacing frame has no padding mark")
    return stripped[:-1]
