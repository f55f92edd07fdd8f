"""A decoder's port that keeps account of what each symbol cost."""

from __future__ import annotations

from collections.abc import Callable, Generator
from math import log2

from narrows.audit.code import bits_q16
from narrows.coding.link.ends import DecoderPort
from narrows.coding.link.symbols import TOTAL, Bit, Code, IntStep
from narrows.coding.range.coder import Sent
from narrows.coding.range.kernels import RANGE


class AuditPort(DecoderPort):
    """``bits``: code length by kind, for reports. ``token_q16``: cost of the last token, Q16
    bits, rounded up. ``checked_bits``: of checks that were right. ``open_position``: coded bytes
    that can have been sent before anything of the action now decoded was in them: its position
    less the bytes held back for a carry."""

    def __init__(self, before_wait: Callable[[], None]) -> None:
        super().__init__(before_wait)
        self.bits = {"tokens": 0.0, "signals": 0.0, "checks": 0.0, "pushes": 0.0}
        self.checked_bits = 0
        self.token_q16 = 0
        self.open_position = 0

    def now(self) -> Sent:
        """The grammar asks once, before each action."""
        sent = super().now()
        self.open_position = sent.position
        return sent

    def bit(self, model: Bit, value: int | None) -> IntStep:
        ones = model.freq_one()
        bit = yield from super().bit(model, value)
        self.bits["signals"] += 32.0 - log2(ones if bit else TOTAL - ones)
        return bit

    def raw(self, bits: int, value: int | None) -> IntStep:
        """With a ``value``, a check: what it has to be is known, or the link ends here."""
        number = yield from super().raw(bits, value)
        self.bits["signals" if value is None else "checks"] += bits
        if number == value:
            self.checked_bits += bits
        return number

    def token(self, code: Code, value: int | None) -> IntStep:
        token = yield from super().token(code, value)
        share = code.interval(token)[1]
        self.token_q16 = bits_q16(share, 32)
        self.bits["tokens"] += 32.0 - log2(share)
        return token

    def push(self) -> Generator[None, None, None]:
        before = self._used_bits()
        yield from super().push()
        self.bits["pushes"] += self._used_bits() - before

    def _used_bits(self) -> float:
        return 8.0 * self.coder.position + 64.0 - log2(int(self.coder.state[RANGE]))
