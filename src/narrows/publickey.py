"""Which 32 bytes are an Ed25519 public key here, and what one has signed.

Anyone can sign for a point of small order: with R = sB the check sB = R + hA holds whatever the
message where hA is the neutral element, for all of them or for one in 2, 4 or 8, by trying
again. An encoding with y >= p is a second spelling of another key, and 32 bytes that are no
point are a key that nobody holds. All three are refused (RFC 8032's decoding lets the first in,
and OpenSSL all, until it verifies).

A point of mixed order (a key plus a point of small order) is let in: to sign for it takes the
same secret as for the key, and gives nobody a second vote that a second secret would not.
"""

from __future__ import annotations

from functools import lru_cache

KEY_BYTES, SIGNATURE_BYTES = 32, 64
_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
# The y of the two points (±x, y) of order 8 above the x axis; below it, p - y.
_Y8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
# Of orders 4, 1, 2 and 8: with both signs of x these are all eight points, however spelled.
_SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})


@lru_cache(maxsize=1024)
def key_flaw(public: bytes) -> str:
    """Why ``public`` is refused as an Ed25519 public key; empty where it is one."""
    if len(public) != KEY_BYTES:
        return f"it has {len(public)} bytes, not {KEY_BYTES}"
    y = int.from_bytes(public, "little") & ((1 << 255) - 1)
    if y % _P in _SMALL_ORDER_Y:
        return "it is a point of small order, for which anyone can sign"
    if y >= _P:
        return "it is not in canonical form"
    # x² = (y² - 1) / (dy² + 1) has a root where the product of both is a square (never 0 here).
    if pow((y * y - 1) * (_D * y * y + 1), (_P - 1) // 2, _P) != 1:
        return "it is no point of the curve, so nobody can sign with it"
    return ""


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether ``public`` is a key and ``signature`` its signature over ``message``. The only
    place that verifies Ed25519 signatures."""
    if key_flaw(public) or len(signature) != SIGNATURE_BYTES:
        return False
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
