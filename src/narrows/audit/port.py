"""A decoder's port that keeps account of what each symbol cost."""

from __future__ import annotations

from collections.abc import Callable, Generator
from math import log2

from narrows.audit.code import bits_q16
from narrows.coding.link.ends import DecoderPort, used_bits
from narrows.coding.link.symbols import IntStep
from narrows.coding.range.coder import Sent


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

    def raw(self, bits: int, value: int | None) -> IntStep:
        """With a ``value``, a check: what it has to be is known, or the link ends here."""
        number = yield from super().raw(bits, value)
        self.bits["signals" if value is None else "checks"] += bits
        if number == value:
            self.checked_bits += bits
        return number

    def _account(self, kind: str, share: int) -> None:
        if kind == "tokens":
            self.token_q16 = bits_q16(share, 32)
        self.bits[kind] += 32.0 - log2(share)

    def push(self) -> Generator[None, None, None]:
        before = used_bits(self.coder)
        yield from super().push()
        self.bits["pushes"] += used_bits(self.coder) - before
