"""Noise keys: the trusted coins of an answer, never a client's choice.

Without ``seed`` an answer's key is HMAC(edge secret, fresh coins). With it, HMAC(edge secret,
API key's number, the whole reduced request, seed): the same client asking the same gets the
same noise, and cannot learn the key nor steer it. Choice ``index`` is mixed in last, so that
the ``n`` answers of a request differ.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable

from narrows.edge.api.request import ChatRequest

COIN_BYTES = 32


def noise_keys(
    secret: bytes, scope: int, request: ChatRequest, coins: Callable[[int], bytes]
) -> list[str]:
    """64 hex digits for each of the request's ``n`` answers."""
    if request.seed is None:
        root = _mac(secret, b"coins", coins(COIN_BYTES))
    else:
        asked: list[object] = [scope, request.seed, request.body]
        if request.prompts:
            asked.append(request.prompts)
        root = _mac(secret, b"seed", json.dumps(asked, sort_keys=True).encode())
    return [_mac(root, b"choice", str(index).encode()).hex() for index in range(request.n)]


def _mac(key: bytes, label: bytes, data: bytes) -> bytes:
    return hmac.new(key, label + b"\x00" + data, hashlib.sha256).digest()
