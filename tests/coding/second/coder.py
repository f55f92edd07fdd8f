"""docs/link-format.md, "Range coder" and "Symbols", the reading end."""

from __future__ import annotations

from collections.abc import Callable

TOP = 1 << 64
TOTAL = 1 << 32


class Missing(Exception):
    """The bytes so far decide no more."""


class Refused(Exception):
    """No encoder makes these bytes."""


class Coder:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.low, self.range = 0, TOP - 1
        self.position = 0
        self.out = 0
        """The number of all bytes shifted out."""
        self.digest = 0x6E6172726F777331

    def symbol(self, find: Callable[[int], tuple[int, int, int]]) -> int:
        """``find``: (value, cum, freq) of the share that holds a target below 2^32."""
        share = self.range >> 32
        seen = self.data[self.position : self.position + 8]
        width = TOP >> 8 * len(seen)
        first = (int.from_bytes(seen, "big") * width - self.low) % TOP
        last = first + width - 1
        if last < TOP and first >= share << 32:
            raise Refused("outside every interval")
        if last >= share << 32:
            raise Missing
        value, cum, freq = find(first // share)
        if last // share >= cum + freq:
            raise Missing
        self.narrow(cum, freq)
        return value

    def narrow(self, cum: int, freq: int) -> None:
        share = self.range >> 32
        self.low += share * cum
        if self.low >= TOP:
            self.low -= TOP
            self.out += 1
        self.range = share * freq
        while self.range < 1 << 56:
            self.out = self.out << 8 | self.low >> 56
            self.low = (self.low << 8) % TOP
            self.range <<= 8
            self.position += 1
        mixed = (self.digest ^ (cum << 32 | freq % TOTAL)) * 0x9E3779B97F4A7C15 % TOP
        self.digest = mixed ^ mixed >> 29

    def raw(self, bits: int) -> int:
        share = TOTAL >> bits
        return self.symbol(lambda target: (target // share, target // share * share, share))

    def push(self) -> None:
        for count in range(1, 9):
            width = TOP >> 8 * count
            start = -(-self.low // width) * width
            if start + width <= self.low + self.range:
                break
        seen = self.data[self.position : self.position + count]
        if len(seen) < count:
            raise Missing
        if seen != (start % TOP).to_bytes(8, "big")[:count]:
            raise Refused("a push has other bytes")
        self.out = (self.out + start // TOP) << 8 * count | int.from_bytes(seen, "big")
        self.position += count
        self.low, self.range = 0, TOP - 1

    def held(self) -> int:
        """h of the page: at most 9, as only the last eight bytes are looked at."""
        if self.low + self.range <= TOP:
            return 0
        held, out = 1, self.out
        while out & 255 == 255 and held < 9:
            out, held = out >> 8, held + 1
        return held


class Bit:
    def __init__(self, ones: int = 16, zeros: int = 16, limit: int = 4096) -> None:
        self.ones, self.zeros, self.limit = ones, zeros, limit

    def read(self, coder: Coder) -> int:
        share = min(max((self.ones << 32) // (self.ones + self.zeros), 1 << 14), TOTAL - (1 << 14))
        bit = coder.symbol(
            lambda target: (1, 0, share) if target < share else (0, share, TOTAL - share)
        )
        self.ones += 32 * bit
        self.zeros += 32 * (1 - bit)
        if self.ones + self.zeros > 32 * self.limit:
            self.ones, self.zeros = self.halved(self.ones), self.halved(self.zeros)
        return bit

    @staticmethod
    def halved(count: int) -> int:
        return count // 2 + 1


class Choice:
    limit = 512

    def __init__(self, size: int, *weights: int) -> None:
        more = (16,) * (size - 1 - len(weights))
        self.bits = [Bit(weight, 16, self.limit) for weight in (*weights, *more)]

    def read(self, coder: Coder) -> int:
        for value, bit in enumerate(self.bits):
            if bit.read(coder):
                return value
        return len(self.bits)


class Count:
    limit = 256

    def __init__(self) -> None:
        self.lengths = [Bit(16, 16, self.limit) for _ in range(31)]
        self.tops = [Bit(16, 16, self.limit) for _ in range(32)]

    def read(self, coder: Coder) -> int:
        length = 0
        while length < 31 and not self.lengths[length].read(coder):
            length += 1
        if not length:
            return 0
        rest = self.tops[length].read(coder)
        if length > 1:
            rest = rest << length - 1 | coder.raw(length - 1)
        return (1 << length) + rest - 1


class Signed:
    limit = 256

    def __init__(self) -> None:
        self.last = 0
        self.same = Bit(24, 8, self.limit)
        self.negative = Bit(16, 16, self.limit)
        self.size = Count()

    def read(self, coder: Coder) -> int:
        if not self.same.read(coder):
            negative = self.negative.read(coder)
            size = self.size.read(coder)
            value = -size if negative else size
            if value == self.last or (negative and not size):
                raise Refused("a difference in another form")
            self.last = value
        return self.last
