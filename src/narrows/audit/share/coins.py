"""Which segments are audited: a coin that nobody can know before its bytes have left."""

from __future__ import annotations

import hashlib
import hmac

KEY_BYTES = 32


def coin(
    key: bytes, boot_nonce: bytes, link: int, answer: int, index: int, digest: bytes, share: float
) -> bool:
    """Whether a segment is drawn, with probability ``share`` (0..1, in steps of 2**-64).

    HMAC-SHA256 under the auditor's key (32 bytes) of the gate's boot nonce, the segment's name
    and the digest of its link's tape through its end: the same for ever, so nothing can be drawn
    again, and unknown to whoever lacks the key."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a coin's key has {KEY_BYTES} bytes, not {len(key)}")
    name = b"".join(number.to_bytes(8, "big") for number in (link, answer, index))
    message = b"narrows audit coin 1" + boot_nonce + name + digest
    draw = int.from_bytes(hmac.digest(key, message, hashlib.sha256)[:8], "big")
    return draw < int(share * 2.0**64)
