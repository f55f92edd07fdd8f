"""The worked examples and the constants of docs/token-code.md, computed again by both codes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from coding.second import noise, tokens
from narrows.coding.events import AnswerSpec, Coding
from narrows.coding.tokens import calibrate, kernels
from narrows.coding.tokens.calibrate import Calibration
from narrows.coding.tokens.code import TokenCode

PAGE = (Path(__file__).parents[2] / "docs" / "token-code.md").read_text()
LOGITS = [0, -65536, -196608, -1048576]
PROMPT = (2, 1, 2)
KEY = bytes(range(32))


def block(name: str) -> list[str]:
    """The lines of the page's fenced block whose first line is ``name``."""
    found = re.search(rf"^```\n{re.escape(name)}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1].splitlines()


def line(name: str, values: Sequence[int]) -> str:
    return " ".join([name, *map(str, values)])


def both(coding: int) -> tuple[tokens.TokenCode, TokenCode]:
    spec = AnswerSpec(PROMPT, 9, noise_key=KEY, resume=())
    mine = tokens.TokenCode(spec, coding, len(LOGITS), tokens.Calibration())
    real = TokenCode(spec, Coding(coding), len(LOGITS), Calibration())
    mine.prepare(LOGITS)
    real.prepare(np.array(LOGITS, np.int32))
    return mine, real


def shares(mine: tokens.TokenCode) -> list[int]:
    at = dict(zip(mine.ids, zip(mine.lows, mine.lows[1:], strict=False), strict=False))
    at |= zip(mine.others, zip(mine.other_lows, mine.other_lows[1:], strict=False), strict=False)
    return [at[token][1] - at[token][0] for token in range(len(LOGITS))]


def example(coding: int) -> list[str]:
    mine, real = both(coding)
    lines = [line("logits", LOGITS)]
    if coding == tokens.COUPLED:
        lines += [line("depths", mine.depths), line("lucks", mine.lucks)]
        weights = mine.posterior(LOGITS, 0)
        lines += [line("weights", weights), line("means", mine.means)]
    else:
        lines.append(line("weights", [noise.pow2(-logit) for logit in LOGITS]))
    lines += [line("listed", mine.ids), line("base", [*mine.base, mine.escape])]
    lines.append(line("runs", [match - tokens.MATCH for match in mine.matched]))
    lines += [line("chances", mine.chances), line("shares", shares(mine))]
    assert shares(mine) == [real.interval(token)[1] for token in range(len(LOGITS))]
    mine.update(1)
    real.update(1)
    assert mine.scalars == [int(x) for x in real._scalars]
    lines.append("token 1")
    lines.append(line("scalars", [*mine.scalars[:4], *mine.scalars[tokens.GAIN :]]))
    lines.append(line("slot", [tokens.slot(1, -1), tokens.slot(1, 2)]))
    lines.append(line("biases", [mine.bias[tokens.slot(1, -1)], mine.bias[tokens.slot(1, 2)]]))
    return lines


@pytest.mark.parametrize("coding", [Coding.PLAIN, Coding.COUPLED])
def test_the_example_of_a_token(coding: Coding) -> None:
    assert block(f"one token, {coding.name}") == example(int(coding))


def powers() -> list[str]:
    one = noise.Noise(KEY, 5)
    three, four = (noise.SeedNoise(family, KEY, 5) for family in (3, 4))
    return [
        line("pow2 0 32768 65536 2097151 =", [noise.pow2(d) for d in (0, 32768, 65536, 2**21 - 1)]),
        line("log2 1 3 2^32+1 2^64-1 =", [noise.log2(y) for y in (1, 3, 2**32 + 1, 2**64 - 1)]),
        line("gumbel 1 2^63 2^64-1 =", [noise.gumbel(u) for u in (1, 2**63, 2**64 - 1)]),
        line("k0 k1 c2 c3 =", one.row),
        line("words 0 1 256 1024 =", [one.word(token) for token in (0, 1, 256, 1024)]),
        line("noise 0 1 256 1024 =", [one.exact(token) for token in (0, 1, 256, 1024)]),
        line("luck 0 1 256 1024 =", [one.luck(token) for token in (0, 1, 256, 1024)]),
        line("seed's blocks =", three.blocks),
        line("h 0 1 256 1024 =", [noise.murmur([*three.blocks, t]) for t in (0, 1, 256, 1024)]),
        line("family 3 =", [three.exact(token) for token in (0, 1, 256, 1024)]),
        line("family 4 =", [four.exact(token) for token in (0, 1, 256, 1024)]),
    ]


def test_the_example_of_powers_and_noise() -> None:
    assert block("powers, logarithms, noise") == powers()


def test_the_starting_scalars() -> None:
    rows = dict(re.findall(r"^\| (greedy|cool|plain|coupled) \| .*? \| ([-\d, ]+) \|$", PAGE, re.M))
    for name in tokens.START:
        numbers = [int(number) for number in rows[name].split(",")]
        start = [int(x) for x in Calibration().copy(name)]
        assert [*start[:2], *start[calibrate.GAIN :]] == numbers
    match = re.search(r"0 to 15 tokens start at ([-\d, ]+)\.", PAGE.replace("\n", " "))
    assert match
    numbers = [int(number) for number in match[1].split(",")]
    assert numbers == list(Calibration().copy("plain")[calibrate.MATCH : calibrate.GAIN])
    assert f"B is log2(ln 2) · 2^40, rounded: {noise.LOG2_LN2}.".replace("-", "−") in PAGE
    assert f"{kernels.LIST_MAX} tokens" in PAGE
    assert f"{kernels.WINDOW_TOKENS - 1:,} places" in PAGE
