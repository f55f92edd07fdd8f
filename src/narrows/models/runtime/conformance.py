"""What proves that two machines compute alike: one digest over fixed inputs."""

from __future__ import annotations

import hashlib

from narrows.models.api import TokenModel
from narrows.models.distribution import frequencies


def conformance_digest(model: TokenModel) -> bytes:
    """SHA-256 over distributions (uint32 shares of 2**32, little-endian) of fixed inputs.

    72 tokens in one pass (so that attention crosses a page), the shares after the last 8; then
    a fork, and 4 steps of both streams with different tokens.
    """
    state = 1
    tokens = []
    for _ in range(80):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        tokens.append((state >> 8) % model.vocab_size)
    digest = hashlib.sha256(b"narrows conformance 1\n")
    stream = model.open(tokens[:1])
    for row in model.extend(stream, tokens[1:72])[-8:]:
        digest.update(frequencies(row).astype("<u4").tobytes())
    twin = model.fork(stream)
    for step in range(4):
        pair = model.advance([stream, twin], [tokens[72 + step], tokens[76 + step]])
        for row in pair:
            digest.update(frequencies(row).astype("<u4").tobytes())
    model.close(stream)
    model.close(twin)
    return digest.digest()
