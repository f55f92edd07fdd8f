"""What the real vLLM draws with a key is what its logits, shaped as asked, and the noise say."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from engines import truth
from engines.vllm_server import KEY, Vllm
from narrows.enclave.tokens.strong import StrongText

pytestmark = [pytest.mark.engines, pytest.mark.timeout(7200)]

DRAWS = 10_000
AT_ONCE = 64
KEYS, TOKENS = 2, 100
QUESTION = "Tell me about rivers, seas and the rain. Be brief."
SHAPES: dict[str, dict[str, Any]] = {
    "T = 1": {},
    "T = 0.7": {"temperature": 0.7},
    "T = 1.5": {"temperature": 1.5},
    "top_p": {"top_p": 0.8},
    "top_k": {"top_k": 20},
    "min_p": {"min_p": 0.1},
    "repetition": {"repetition_penalty": 1.3},
    "presence": {"presence_penalty": 1.0},
    "frequency": {"frequency_penalty": 0.8},
    "all": {
        "temperature": 0.8,
        "top_p": 0.95,
        "top_k": 200,
        "min_p": 0.01,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.3,
    },
}


def prompt_of(vllm: Vllm, question: str) -> list[int]:
    return list(StrongText(vllm.folder).chat.render([{"role": "user", "content": question}]))


@pytest.fixture(scope="module")
def answers(vllm: Vllm) -> dict[tuple[str, int], list[int]]:
    """Of each shape ``KEYS`` answers, all in one batch."""
    prompt = prompt_of(vllm, QUESTION)

    def one(name: str, n: int) -> list[int]:
        xargs = {"narrows_key": key_of(name, n).hex(), "narrows_position": 0}
        body = {"prompt": prompt, "max_tokens": TOKENS, "ignore_eos": True, "vllm_xargs": xargs}
        return vllm.ids(body | SHAPES[name])

    asked = [(name, n) for name in SHAPES for n in range(KEYS)]
    with ThreadPoolExecutor(len(asked)) as pool:
        return dict(zip(asked, pool.map(one, *zip(*asked, strict=True)), strict=True))


def key_of(name: str, n: int) -> bytes:
    return hashlib.sha256(f"{name} {n}".encode()).digest()


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_what_its_parameters_say(
    vllm: Vllm, answers: dict[tuple[str, int], list[int]], name: str
) -> None:
    """Every token against one that was worked out apart; float32 sums differ between two
    programs, so that one in 100 may fall the other way."""
    shape, prompt = SHAPES[name], prompt_of(vllm, QUESTION)
    wrong = changed = 0
    for n in range(KEYS):
        out, key = answers[name, n], key_of(name, n)
        rows = truth.logits(vllm.folder, prompt, out)
        for at, token in enumerate(out):
            said = truth.shaped(rows[at], prompt, out[:at], **shape)
            wrong += token != truth.drawn(said, key, at)
            if shape and at % 4 == 0:
                bare = truth.shaped(rows[at], prompt, out[:at])
                changed += token != truth.drawn(bare, key, at)
    total = KEYS * TOKENS
    print(f"{name}: {wrong} of {total} differ, {changed} of a quarter without the shape")
    assert wrong <= total // 100
    assert changed > 0 or not shape, "the shape would not have been missed"


def test_draws_are_distributed_as_the_model_says(vllm: Vllm) -> None:
    """Chi-square of the first token under 10,000 keys; the counts are kept beside the model."""
    prompt = list(StrongText(vllm.folder).tokenizer.encode(b"The"))  # read 10,000 times
    counts: dict[int, int] = {}

    def one(n: int) -> int:
        key = hashlib.sha256(b"chi-square" + n.to_bytes(4, "big")).digest()
        xargs = {"narrows_key": key.hex(), "narrows_position": n % 7}
        return vllm.ids({"prompt": prompt, "max_tokens": 1, "vllm_xargs": xargs})[0]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for token in pool.map(one, range(DRAWS)):
            counts[token] = counts.get(token, 0) + 1
    p = np.exp(truth.shaped(truth.logits(vllm.folder, prompt, [])[0], prompt, []))
    chi, degrees = chi_square(counts, p)
    kept = {"draws": DRAWS, "chi_square": chi, "degrees": degrees, "counts": counts}
    (vllm.folder.parent / "chi-square.json").write_text(json.dumps(kept, sort_keys=True))
    print(f"chi-square {chi:.1f} at {degrees} degrees, {DRAWS} draws")
    assert degrees >= 10
    assert chi < degrees + 4 * (2 * degrees) ** 0.5


def chi_square(counts: dict[int, int], p: np.ndarray) -> tuple[float, int]:
    """Over tokens that are expected ten times, and all others together."""
    draws = sum(counts.values())
    often = np.flatnonzero(p * draws >= 10)
    seen = np.array([counts.get(int(i), 0) for i in often], float)
    seen, want = (
        np.append(seen, draws - seen.sum()),
        np.append(p[often], 1 - p[often].sum()) * draws,
    )
    return float(((seen - want) ** 2 / want).sum()), len(often)


def test_a_key_is_not_needed(vllm: Vllm) -> None:
    """Beside coupled requests, one without a key draws as it always did."""
    body = {"prompt": prompt_of(vllm, "Name three rivers."), "max_tokens": 20, "seed": 5}
    first = vllm.ids(body)
    xargs = {"narrows_key": KEY.hex(), "narrows_position": 0}
    with ThreadPoolExecutor(8) as pool:
        mixed = [body | ({"vllm_xargs": xargs} if n % 2 else {}) for n in range(8)]
        found = list(pool.map(vllm.ids, mixed))
    assert found[0::2] == [first] * 4
    assert len({tuple(one) for one in found[1::2]}) == 1
    assert found[1] != first


def test_the_counts_of_a_wrong_distribution_would_be_noticed() -> None:
    p = np.array([0.4, 0.3, 0.2, 0.1])
    right = {0: 4000, 1: 3000, 2: 2000, 3: 1000}
    assert chi_square(right, p)[0] < 1e-9
    assert chi_square({0: 4200, 1: 2800, 2: 2000, 3: 1000}, p)[0] > 20
