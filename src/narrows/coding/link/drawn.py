"""Which noise a coupled answer was drawn with, said where it opens. Alike at both ends."""

from __future__ import annotations

from collections.abc import Generator

from narrows.coding.events import OWN_NOISE, Noise, NoiseFamily
from narrows.coding.link.symbols import Choice, Signed, SymbolPort
from narrows.errors import LinkError

START_LIMIT = 1 << 30


class NoiseGrammar:
    """``highest``: the link's option ``noise``. With one family alone nothing is said."""

    def __init__(self, highest: int) -> None:
        self.families = tuple(family for family in NoiseFamily if family <= highest)
        count = len(self.families)
        self._family = [Choice(count) for _ in self.families] if count > 1 else []
        self._last = 0
        self._start = Signed()

    def code(
        self, port: SymbolPort, noise: Noise | None, prompt_tokens: int
    ) -> Generator[None, None, Noise]:
        """``prompt_tokens``: of the weak prompt. A server counts from its own, which is often
        as much longer as the last one was."""
        if not self._family:
            return OWN_NOISE
        place = None if noise is None else self.families.index(noise.family)
        self._last = yield from self._family[self._last].code(port, place)
        family = self.families[self._last]
        if family is NoiseFamily.KEYED:
            return OWN_NOISE
        more = None if noise is None else noise.start - prompt_tokens
        start = prompt_tokens + (yield from self._start.code(port, more))
        if not 0 <= start < START_LIMIT:
            raise LinkError(f"noise that starts at {start}")
        return Noise(family, start)
