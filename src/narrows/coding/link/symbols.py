"""Adaptive models of the link's rare symbols, and the port they are coded through.

A grammar written once against ``SymbolPort`` serves both ends: the encoder's port codes the value
it is given, the decoder's ignores it (None) and returns the one it decoded. Every port method is
a generator that yields while the decoder waits for bytes; the encoder's never yields.

All counts are integers; both ends update them with the same symbols in the same order.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from narrows.coding.range.coder import Mark, Sent
from narrows.models.api import Logits

TOTAL = 1 << 32
_UNIT = 32
_FLOOR = 1 << 14
"""Least frequency of a bit's side: 2**-18 of the total, so no bit ever costs over 18 bits."""

IntStep = Generator[None, None, int]


class Code(Protocol):
    """What the link needs of an answer's token code (``coding/tokens/code.py`` explains)."""

    def prepare(self, logits: Logits) -> None: ...

    def interval(self, token: int) -> tuple[int, int]: ...

    def find(self, target: int) -> tuple[int, int, int]: ...

    def update(self, token: int) -> None: ...

    def close(self) -> None: ...


class Bit:
    """A binary model: the shares seen so far, with a prior; old ones fade at ``limit``."""

    __slots__ = ("limit", "ones", "zeros")

    def __init__(self, ones: int = 16, zeros: int = 16, limit: int = 4096) -> None:
        """``ones`` and ``zeros`` in 1/32 of an observation; ``limit`` in observations."""
        self.ones = ones
        self.zeros = zeros
        self.limit = limit * _UNIT

    def freq_one(self) -> int:
        """Frequency of a 1 out of 2**32; a 1 takes [0, freq_one)."""
        freq = (self.ones << 32) // (self.ones + self.zeros)
        return min(max(freq, _FLOOR), TOTAL - _FLOOR)

    def update(self, bit: int) -> None:
        if bit:
            self.ones += _UNIT
        else:
            self.zeros += _UNIT
        if self.ones + self.zeros > self.limit:
            self.ones = (self.ones >> 1) + 1
            self.zeros = (self.zeros >> 1) + 1


class SymbolPort(Protocol):
    """One end's side of the grammar."""

    def bit(self, model: Bit, value: int | None) -> IntStep: ...

    def raw(self, bits: int, value: int | None) -> IntStep:
        """``bits`` (1..32) equiprobable bits."""

    def token(self, code: Code, value: int | None) -> IntStep: ...

    def push(self) -> Generator[None, None, None]: ...

    def mark(self) -> Mark: ...

    def now(self) -> Sent: ...

    @property
    def position(self) -> int: ...

    @property
    def digest(self) -> int: ...


class Choice:
    """A small alphabet as a chain of bits: is it the first, else the second, ..."""

    __slots__ = ("bits",)

    def __init__(self, size: int, ones: Sequence[int] = (), limit: int = 512) -> None:
        """``ones[i]``: prior weight, in 1/32, of symbol i against those after it."""
        self.bits = [
            Bit(ones[index] if index < len(ones) else 16, 16, limit) for index in range(size - 1)
        ]

    def code(self, port: SymbolPort, value: int | None) -> IntStep:
        for index, model in enumerate(self.bits):
            wanted = None if value is None else int(value == index)
            if (yield from port.bit(model, wanted)):
                return index
        return len(self.bits)


class Count:
    """Non-negative integers below 2**31: Elias gamma with adaptive length bits."""

    __slots__ = ("lengths", "second")

    def __init__(self) -> None:
        self.lengths = [Bit(16, 16, 256) for _ in range(31)]
        self.second = [Bit(16, 16, 256) for _ in range(32)]

    def code(self, port: SymbolPort, value: int | None) -> IntStep:
        """n + 1 has ``length`` bits after its leading one; the first of them is adaptive."""
        wanted = None if value is None else (value + 1).bit_length() - 1
        length = 0
        while length < 31:
            stop = None if wanted is None else int(wanted == length)
            if (yield from port.bit(self.lengths[length], stop)):
                break
            length += 1
        if length == 0:
            return 0
        rest = None if value is None else value + 1 - (1 << length)
        top = None if rest is None else rest >> (length - 1)
        result = yield from port.bit(self.second[length], top)
        if length > 1:
            low = None if rest is None else rest & ((1 << (length - 1)) - 1)
            result = (result << (length - 1)) | (yield from port.raw(length - 1, low))
        return (1 << length) + result - 1


class Signed:
    """Differences: is it what it was last time, else sign and magnitude."""

    __slots__ = ("last", "same", "sign", "size")

    def __init__(self) -> None:
        self.last = 0
        self.same = Bit(24, 8, 256)
        self.sign = Bit(16, 16, 256)
        self.size = Count()

    def code(self, port: SymbolPort, value: int | None) -> IntStep:
        same = yield from port.bit(self.same, None if value is None else int(value == self.last))
        if same:
            return self.last
        negative = yield from port.bit(self.sign, None if value is None else int(value < 0))
        size = yield from self.size.code(port, None if value is None else abs(value))
        self.last = -size if negative else size
        return self.last
