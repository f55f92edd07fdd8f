"""TCP ports that a test may close and listen on again."""

from __future__ import annotations

import itertools
import os
import socket

# Below the range from which Linux takes the local ports of outgoing connections, so that none
# of those sits on a port while its server is away; each process begins somewhere else.
_FIRST, _LAST = 10_240, 32_767
_offsets = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """A port of loopback where nobody listens, another one at each call."""
    for _ in range(_LAST - _FIRST):
        port = _FIRST + next(_offsets) % (_LAST - _FIRST + 1)
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port is free")
