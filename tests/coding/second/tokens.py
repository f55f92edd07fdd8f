"""docs/token-code.md: the shares of one answer's tokens, and what is learned."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from math import isqrt

from coding.second.noise import Noise, SeedNoise, log2, pow2
from narrows.coding.events import AnswerSpec

ONE = 1 << 16
COUPLED = 1
SLOPE, ESCAPE, MATCH, GAIN, EXPONENT = 0, 1, 2, 18, 20
MATCHES = [-14000, -13000, 16000, 27000, 12000, 13000, 9500, 10000, *[4000] * 8]
EXPONENTS = [91750, 81920]
START = {
    "greedy": [81920, 0, *MATCHES, 65536, 65536, *EXPONENTS],
    "cool": [75366, 0, *MATCHES, 52428, 32768, *EXPONENTS],
    "plain": [62259, 0, *MATCHES, 52428, 32768, *EXPONENTS],
    "coupled": [65536, 0, *[0] * 16, 65536, 65536, *EXPONENTS],
}
RATES = [28_400 * ONE // isqrt((ONE * ONE * (4 + k)) // 4) for k in range(256)]


def clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


def slot(token: int, previous: int) -> int:
    h = (token * 0x9E3779B1 ^ (previous + 1) * 0x85EBCA6B) % 2**32
    return ((h ^ h >> 15) * 0x2C1B3C6D % 2**32) >> 17


class Calibration:
    def __init__(self) -> None:
        self.scalars = {name: list(start) for name, start in START.items()}

    def absorb(self, name: str, ended: Sequence[int], tokens: int) -> None:
        mine = self.scalars[name]
        for which, value in enumerate(ended):
            memory = 128 if which >= EXPONENT else 2048
            mine[which] += (value - mine[which]) * tokens // (tokens + memory)


class TokenCode:
    def __init__(self, spec: AnswerSpec, coding: int, size: int, calibration: Calibration) -> None:
        self.size, self.calibration = size, calibration
        self.coupled = coding == COUPLED and spec.temperature > 0
        self.name = "coupled"
        if not self.coupled:
            warm = "cool" if spec.temperature < 45875 else "plain"
            self.name = warm if spec.temperature else "greedy"
        else:
            self.inverse = clamp(((1 << 33) // spec.temperature + 1) >> 1, 1, 1 << 20)
        self.scalars = list(calibration.scalars[self.name])
        self.history = list(spec.prompt + spec.resume)
        self.key, self.position = spec.noise_key, len(spec.resume)
        self.drawn = spec.noise
        self.tokens = 0
        self.bias: defaultdict[int, int] = defaultdict(int)
        self.sums: defaultdict[int, int] = defaultdict(int)

    def noise(self) -> Noise | SeedNoise:
        family = int(self.drawn.family)
        if family == 1:
            return Noise(self.key, self.position)
        return SeedNoise(family, self.key, self.drawn.start + self.position)

    # -- shares ----------------------------------------------------------------------------

    def prepare(self, logits: Sequence[int]) -> None:
        top = max(logits)
        weights = self.posterior(logits, top) if self.coupled else [pow2(top - x) for x in logits]
        self.enlist(weights)
        self.score()
        self.spread([0 if i in self.at else w for i, w in enumerate(weights)])

    def posterior(self, logits: Sequence[int], top: int) -> list[int]:
        noise = self.noise()
        a, b = self.scalars[EXPONENT:]
        self.depths = [min(((top - x) * self.inverse) >> 16, 2**23 - 1) for x in logits]
        self.lucks = [noise.luck(token) for token in range(self.size)]
        f = [(b * g - a * d) >> 16 for g, d in zip(self.lucks, self.depths, strict=True)]
        weights = [pow2(max(f) - x) for x in f]
        small = [w >> 12 for w in weights]
        self.means = [
            sum(w * x for w, x in zip(small, values, strict=True)) // sum(small)
            for values in (self.depths, self.lucks)
        ]
        return weights

    def enlist(self, weights: list[int]) -> None:
        total, bits = sum(weights), 11
        while True:
            limit = min(total >> bits, 2**32 - 1)
            self.ids = [i for i, w in enumerate(weights) if w > limit]
            if len(self.ids) <= 512:
                break
            bits -= 1
        self.at = {token: k for k, token in enumerate(self.ids)}
        whole = log2(total)
        self.base = [(log2(weights[i]) - whole) >> 24 for i in self.ids]
        rest = total - sum(weights[i] for i in self.ids)
        self.escape = (log2(max(rest, 1)) - whole) >> 24

    def runs(self) -> dict[int, int]:
        past, best = self.history, defaultdict[int, int](int)
        for j in range(max(1, len(past) - 8191), len(past)):
            if past[j - 1] != past[-1]:
                continue
            run = 1
            while run < 15 and j - 1 - run >= 0 and past[j - 1 - run] == past[-1 - run]:
                run += 1
            best[past[j]] = max(best[past[j]], run)
        return best

    def score(self) -> None:
        s, runs = self.scalars, self.runs()
        self.previous = self.history[-1] if self.history else -2
        self.matched = [MATCH + runs.get(token, 0) for token in self.ids]
        self.slots = [(slot(i, -1), slot(i, self.previous)) for i in self.ids]
        f = [
            (s[SLOPE] * base >> 16)
            + s[match]
            + ((s[GAIN] * self.bias[own] + s[GAIN + 1] * self.bias[pair]) >> 16)
            for base, match, (own, pair) in zip(self.base, self.matched, self.slots, strict=True)
        ]
        f.append(self.escape + s[ESCAPE])
        w = [pow2(min(max(f) - x, 2**23)) for x in f]
        z = sum(w)
        self.chances = [(x << 16) // z for x in w]
        shift = max(0, z.bit_length() - 32)
        whole, spread = (z >> shift) + 1, 2**32 - len(self.ids) - self.size
        self.lows = [0]
        for x in w[:-1]:
            self.lows.append(self.lows[-1] + 1 + (x >> shift) * spread // whole)
        if len(self.ids) == self.size:
            self.lows[-1] = 2**32

    def spread(self, weights: list[int]) -> None:
        """docs/numerics.md, "Shares", of the tokens that are not listed."""
        self.others = [i for i in range(self.size) if i not in self.at]
        self.other_lows = []
        total, count, start = sum(weights), len(self.others), self.lows[-1]
        shift, room, mass = max(0, total.bit_length() - 32), 2**32 - start - count, 0
        for j, token in enumerate(self.others):
            part = (mass >> shift) * room // (total >> shift) if total else j * room // count
            self.other_lows.append(start + j + part)
            mass += weights[token]
        self.other_lows.append(2**32)

    def find(self, target: int) -> tuple[int, int, int]:
        listed = target < self.lows[-1]
        ids, lows = (self.ids, self.lows) if listed else (self.others, self.other_lows)
        k = bisect_right(lows, target) - 1
        return ids[k], lows[k], lows[k + 1] - lows[k]

    # -- learning --------------------------------------------------------------------------

    def update(self, token: int) -> None:
        s, came = self.scalars, self.at.get(token, -1)
        slope, taught = 0, [0, 0]
        for k, base in enumerate(self.base):
            g = ONE * (k == came) - self.chances[k]
            slope += g * base
            match = self.matched[k]
            s[match] = clamp(s[match] + (g >> 6), -(2**20), 2**20)
            if abs(g) >= 64:
                for which in range(2):
                    taught[which] += g * self.bias[self.slots[k][which]]
                for place in self.slots[k]:
                    self.adapt(place, g)
        g = -self.chances[-1]
        if came < 0:
            g += ONE
            self.adapt(slot(token, -1), 32768)
            self.adapt(slot(token, self.previous), 32768)
        s[ESCAPE] = clamp(s[ESCAPE] + (g >> 6), -(2**20), 2**20)
        s[SLOPE] = clamp(s[SLOPE] + (slope >> 27), 2**13, 2**19)
        for which in range(2):
            s[GAIN + which] = clamp(s[GAIN + which] + (taught[which] >> 21), 0, 2**18)
        if self.coupled:
            steps = self.means[0] - self.depths[token], self.lucks[token] - self.means[1]
            for which, step in enumerate(steps):
                moved = s[EXPONENT + which] + (clamp(step, -(8 << 16), 8 << 16) >> 8)
                s[EXPONENT + which] = clamp(moved, 0, 2**19)
        self.history.append(token)
        self.position += 1
        self.tokens += 1

    def adapt(self, place: int, g: int) -> None:
        step = (g * RATES[min(self.sums[place] >> 14, 255)]) >> 16
        self.bias[place] = clamp(self.bias[place] + step, -(2**20), 2**20)
        self.sums[place] = min(self.sums[place] + abs(g), 2**32 - 1)

    def skip(self) -> None:
        self.position += 1

    def close(self) -> None:
        if self.tokens:
            self.calibration.absorb(self.name, self.scalars, self.tokens)
