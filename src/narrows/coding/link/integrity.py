"""Checks of the running digest, against faults (not malice).

Both ends' coders digest every (cum, freq) coded. At each answer's end 8 bits of the digest are
coded, before any action 32 bits where ``check_bytes`` have passed since the last such check.
The check is itself coded, so it is part of the next digest.

Residual risk. Two ends whose digests differ agree on an 8-bit check with probability 2**-8 and
on a 32-bit check with 2**-32. So a fault passes into one *completed* answer with at most 2**-8,
into n answers completed one after another behind it with 2**-(8 n), and a link that goes on for
4 kB behind it with 2**-32. A fault nearly always desynchronises the coder too, and then the
grammar's rules end the link sooner. TCP and TLS guard the bytes in between; what is caught here
is a weak model whose integers differ, a bug, memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from narrows.coding.link.symbols import SymbolPort
from narrows.errors import LinkError
from narrows.models.api import TokenModel

END_BITS = 8
PERIODIC_BITS = 32


class IntegrityCheck:
    """Codes the checks; the decoding side compares."""

    def __init__(self, port: SymbolPort, model: TokenModel) -> None:
        self._port = port
        self._model = model
        self._last_position = 0

    def periodic(self, every_bytes: int, passed: Callable[[], None]) -> Generator[None, None, None]:
        """The 32-bit check where it is due; then ``passed``."""
        if self._port.position - self._last_position >= every_bytes:
            self._last_position = self._port.position
            yield from self.check(PERIODIC_BITS)
            passed()

    def check(self, bits: int) -> Generator[None, None, None]:
        own = self._port.digest >> (64 - bits)
        seen = yield from self._port.raw(bits, own)
        if seen != own:
            raise LinkError(
                "the two ends of the link have computed different probabilities: this end has "
                f"weak model {self._model.name} {self._model.digest.hex()[:16]}, "
                f"numerics {self._model.numerics.hex()[:16]}",
                "compare 'narrows weak check' on both ends; the open answers are lost",
            )
