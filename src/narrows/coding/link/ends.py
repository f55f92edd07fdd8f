"""The two ends of the grammar: coding symbols into a range coder, and out of one."""

from __future__ import annotations

from collections.abc import Callable, Generator
from math import log2

from narrows.coding.link.symbols import TOTAL, Bit, Code, IntStep
from narrows.coding.range.coder import Mark, RangeDecoder, RangeEncoder, Sent
from narrows.coding.range.kernels import RANGE


def used_bits(coder: RangeEncoder | RangeDecoder) -> float:
    """Code length so far: bytes, and what of the range is left of the next ones."""
    return 8.0 * coder.position + 64.0 - log2(int(coder.state[RANGE]))


class EncoderPort:
    """Codes what it is given and keeps account of its cost, in bits, by kind."""

    def __init__(self) -> None:
        self.coder = RangeEncoder()
        self.kind = "signals"
        self.bits: dict[str, float] = {}

    def mark(self) -> Mark:
        return self.coder.mark()

    def now(self) -> Sent:
        return self.coder.now()

    @property
    def position(self) -> int:
        return self.coder.position

    @property
    def digest(self) -> int:
        return self.coder.digest

    def bit(self, model: Bit, value: int | None) -> IntStep:
        bit = _given(value)
        ones = model.freq_one()
        if bit:
            self._encode(0, ones, self.kind)
        else:
            self._encode(ones, TOTAL - ones, self.kind)
        model.update(bit)
        return bit
        yield

    def raw(self, bits: int, value: int | None) -> IntStep:
        number = _given(value)
        share = TOTAL >> bits
        self._encode(number * share, share, self.kind)
        return number
        yield

    def token(self, code: Code, value: int | None) -> IntStep:
        token = _given(value)
        cum, freq = code.interval(token)
        self._encode(cum, freq, "tokens")
        return token
        yield

    def push(self) -> Generator[None, None, None]:
        before = used_bits(self.coder)
        self.coder.push()
        self._account("pushes", 8.0 * self.coder.position - before)
        return
        yield

    def _encode(self, cum: int, freq: int, kind: str) -> None:
        self.coder.encode(cum, freq)
        self._account(kind, 32.0 - log2(freq))

    def _account(self, kind: str, bits: float) -> None:
        self.bits[kind] = self.bits.get(kind, 0.0) + bits


class DecoderPort:
    """Decodes each symbol as soon as the bytes so far determine it; yields until then.

    ``before_wait`` runs before each yield: what the model returned must be kept by then, since
    another link may use the model meanwhile."""

    def __init__(self, before_wait: Callable[[], None]) -> None:
        self.coder = RangeDecoder()
        self._before_wait = before_wait

    def mark(self) -> Mark:
        return self.coder.mark()

    def now(self) -> Sent:
        return self.coder.now()

    @property
    def position(self) -> int:
        return self.coder.position

    @property
    def digest(self) -> int:
        return self.coder.digest

    def bit(self, model: Bit, value: int | None) -> IntStep:
        ones = model.freq_one()
        while (bit := self.coder.bit(ones)) < 0:
            self._before_wait()
            yield
        self._account("signals", ones if bit else TOTAL - ones)
        model.update(bit)
        return bit

    def raw(self, bits: int, value: int | None) -> IntStep:
        share = TOTAL >> bits
        while True:
            first, last = self.coder.targets()
            number = first // share
            if last // share == number:
                self.coder.consume(number * share, share)
                return number
            self._before_wait()
            yield

    def token(self, code: Code, value: int | None) -> IntStep:
        while True:
            first, last = self.coder.targets()
            if last < TOTAL:  # else none is decided, and the search would be for nothing
                token, cum, freq = code.find(first)
                if last < cum + freq:
                    self.coder.consume(cum, freq)
                    self._account("tokens", freq)
                    return token
            self._before_wait()
            yield

    def _account(self, kind: str, share: int) -> None:
        """A bit or a token of that share of 2**32 is decoded; for who keeps account."""

    def push(self) -> Generator[None, None, None]:
        while not self.coder.push():
            self._before_wait()
            yield


def _given(value: int | None) -> int:
    if value is None:
        raise ValueError("an encoder codes values, not questions")
    return value
