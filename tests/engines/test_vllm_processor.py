"""The plugin in hands that behave as vLLM's two runners do, without vLLM."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from enum import Enum, auto
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from narrows_vllm import pick
from narrows_vllm.fields import coupling
from narrows_vllm.processor import CoupledProcessor

torch = pytest.importorskip("torch")

KEY = bytes(range(32))
VOCAB = 600


@dataclass
class Params:
    """What vLLM calls SamplingParams, as far as the plugin looks."""

    extra_args: Any = None
    n: Any = 1
    temperature: Any = 1.0
    top_p: Any = 1.0
    top_k: Any = 0
    min_p: Any = 0.0


def asks(position: int = 0, key: bytes = KEY, **fields: Any) -> Params:
    return Params({"narrows_key": key.hex(), "narrows_position": position}, **fields)


class Way(Enum):
    UNIDIRECTIONAL = auto()
    SWAP = auto()


@dataclass
class Update:
    removed: list[int] = field(default_factory=list)
    added: list[tuple[int, Params, None, list[int]]] = field(default_factory=list)
    moved: list[tuple[int, int, Way]] = field(default_factory=list)


def v1() -> CoupledProcessor:
    return CoupledProcessor(SimpleNamespace(), torch.device("cpu"), False)


def v2(prompts: list[int]) -> CoupledProcessor:
    states = SimpleNamespace(prompt_len=SimpleNamespace(np=np.array(prompts)))
    return CoupledProcessor(SimpleNamespace(), states)


def batch(rows: int, seed: int = 1) -> Any:
    noise = np.random.default_rng(seed).standard_normal((rows, VOCAB)) * 3
    return torch.tensor(noise, dtype=torch.float32)


def winner(logits: Any, position: int, key: bytes = KEY, **shape: Any) -> int | None:
    return pick.pick(logits.numpy(), key, position, pick.Shape(**shape))


def drawn(row: Any) -> int | None:
    """The token of a one-hot row; None for any other."""
    finite = torch.isfinite(row).nonzero().flatten().tolist()
    return finite[0] if len(finite) == 1 and float(row[finite[0]]) == 0.0 else None


def test_v1_counts_positions_and_leaves_the_others_alone() -> None:
    plugin = v1()
    out = [5, 6, -1]  # the last one is a placeholder of a step that is scheduled ahead
    plugin.update_state(Update(added=[(0, Params(), None, []), (2, asks(10), None, out)]))
    logits = batch(3)
    before = logits.clone()
    assert plugin.apply(logits) is logits
    assert torch.equal(logits[:2], before[:2])
    assert drawn(logits[2]) == winner(before[2], 13)
    out.append(7)
    logits = before.clone()
    plugin.apply(logits)
    assert drawn(logits[2]) == winner(before[2], 14)


def test_v1_follows_requests_that_move_and_leave() -> None:
    plugin = v1()
    a, b = asks(0), asks(100, bytes(32))
    plugin.update_state(Update(added=[(0, a, None, []), (3, b, None, [])]))
    plugin.update_state(Update(moved=[(0, 3, Way.SWAP)]))
    before = batch(4)
    logits = before.clone()
    plugin.apply(logits)
    assert drawn(logits[0]) == winner(before[0], 100, bytes(32))
    assert drawn(logits[3]) == winner(before[3], 0)
    plugin.update_state(Update(removed=[0], moved=[(3, 0, Way.UNIDIRECTIONAL)]))
    logits = before.clone()
    plugin.apply(logits)
    assert drawn(logits[0]) == winner(before[0], 0)
    assert torch.equal(logits[1:], before[1:])
    plugin.update_state(Update(added=[(0, Params(), None, [])]))  # the slot's next request
    logits = before.clone()
    plugin.apply(logits)
    assert torch.equal(logits, before)


def test_v1_takes_temperature_as_applied_and_top_p_inside() -> None:
    plugin = v1()
    plugin.update_state(Update(added=[(0, asks(temperature=0.3, top_p=0.5), None, [])]))
    before = batch(1)
    logits = before.clone()
    plugin.apply(logits)
    assert drawn(logits[0]) == winner(before[0], 0, top_p=0.5)
    assert plugin.is_argmax_invariant()


def test_v2_takes_the_place_from_the_context_and_the_shape_from_the_request() -> None:
    plugin = v2([7, 20, 0])
    assert plugin.add_request(1, asks(4, temperature=0.5, min_p=0.2))
    assert not plugin.add_request(0, Params())
    before = batch(3)
    logits = before.clone()
    context = SimpleNamespace(
        expanded_idx_mapping=torch.tensor([0, 1, 1]), pos=torch.tensor([6, 19, 3])
    )
    plugin.apply(logits, context)
    assert torch.equal(logits[0], before[0])
    assert drawn(logits[1]) == winner(before[1], 4, temperature=0.5, min_p=0.2)
    assert torch.equal(logits[2], before[2])  # a part of the prompt: nobody keeps its draw
    plugin.add_request(1, Params())
    logits = before.clone()
    plugin.apply(logits, context)
    assert torch.equal(logits, before)


def test_a_step_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    plugin = v1()
    good, bad = asks(), Params({"narrows_key": "no"})
    plugin.update_state(Update(added=[(1, good, None, []), (0, bad, None, [])]))
    plugin.update_state(SimpleNamespace(removed=None))
    logits = batch(2)
    logits[1] = math.nan
    plugin.apply(logits)
    plugin.apply(SimpleNamespace(__len__=lambda: 3))
    assert torch.isnan(logits[1]).all()
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
    other = v2([1])
    assert not other.add_request(0, bad)
    other.add_request(0, good)
    logits = batch(1)
    before = logits.clone()
    other.apply(logits, SimpleNamespace())
    assert torch.equal(logits, before)


def test_a_large_batch_has_each_row_its_own_token_and_leaves_a_bad_one() -> None:
    plugin, rows = v1(), 150
    added = [(i, asks(i, bytes([i]) * 32), None, []) for i in range(rows) if i % 10]
    plugin.update_state(Update(added=added))
    before = batch(rows)
    before[77] = math.nan
    logits = before.clone()
    plugin.apply(logits)
    for i in range(rows):
        if i % 10 == 0 or i == 77:
            assert torch.equal(logits[i].nan_to_num(), before[i].nan_to_num())
        else:
            assert drawn(logits[i]) == winner(before[i], i, bytes([i]) * 32)


def test_the_second_of_two_in_one_engine_does_nothing_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = SimpleNamespace()
    first = CoupledProcessor(config, torch.device("cpu"), False)
    second = CoupledProcessor(config, torch.device("cpu"), False)
    assert "twice" in caplog.text
    logits = batch(1)
    before = logits.clone()
    for plugin in (first, second):
        plugin.update_state(Update(added=[(0, asks(), None, [])]))
        plugin.apply(logits)
    assert drawn(logits[0]) == winner(before[0], 0)
    assert first._rows
    assert not second._rows


def hostile() -> list[Params]:
    """Some 200 ways to ask that must be refused, each in words."""
    key = KEY.hex()
    odd = [None, True, False, 0, -1, 1.5, math.nan, math.inf, -math.inf, "", "x", [], {}, (), b"",
           [key], {"key": key}, 1 << 64, 1 << 200, object()]  # fmt: skip
    keys = [*odd, key[:-1], key + "0", key[:-2] + "zz", " " + key[1:], key[:-1] + "\n", "0x" + key,
            "\uff10" * 64, "é" * 64, "\x00" * 64, key.encode(), ["0"] * 64, key * 1000]  # fmt: skip
    cases: list[Any] = [{"narrows_key": value} for value in keys]
    positions = [one for one in odd if one != 0 or isinstance(one, bool)]
    positions += ["0", "12", 1 << 40, -(1 << 70), [0], {"a": 1}, 0.0, 1e300]
    cases += [{"narrows_key": key, "narrows_position": value} for value in positions]
    cases += [{"narrows_position": value} for value in (*odd, "0", key)]
    names = ["narrows_t", "narrows_top_p", "narrows_", "narrows_keys", "narrows_key ",
             "narrows_KEY", "narrows_version", "narrows_" + "x" * 10_000,
             "narrows_n", "narrows_\x00", "narrows_é", "narrows_top_k", "narrows_min_p",
             "narrows_position2", "narrows_seed", "narrows_noise", "narrows_key\n"]  # fmt: skip
    cases += [{"narrows_key": key, name: value} for name in names for value in (0, 1, key, None)]
    made = [Params(case) for case in cases]
    wrong = [None, True, "1", 0, -1, math.nan, math.inf, -math.inf, [], {}, 10**400]
    made += [asks(n=value) for value in (0, 2, 3, -1, None, "2", 1.5, [])]
    made += [asks(temperature=value) for value in wrong if value is not None]
    made += [asks(temperature=value) for value in (1e-6, 0.0, -0.5, 1e7)]
    made += [asks(top_p=value) for value in wrong if value is not None]
    made += [asks(top_p=value) for value in (1.1, 0.0, -0.1, 2)]
    made += [asks(min_p=value) for value in wrong if value not in (None, 0)]
    made += [asks(min_p=value) for value in (1.1, -0.1)]
    return made + [asks(top_k=value) for value in (None, True, "5", 1.5, math.nan, [], {})]


def test_hostile_fields_are_refused_in_words() -> None:
    cases = hostile()
    assert len(cases) >= 200
    for case in cases:
        with pytest.raises(ValueError) as refusal:
            CoupledProcessor.validate_params(case)
        assert type(refusal.value) is ValueError, case
        assert 20 < len(str(refusal.value)) < 200


def test_what_is_not_ours_is_left_alone() -> None:
    for args in (None, {}, {"other": 1}, [], "narrows_key", {5: 6}, 7):
        assert coupling(Params(args, n=4, temperature=0.0)) is None
    CoupledProcessor.validate_params(Params({"other": object()}))
    asked = coupling(asks(7, temperature=0.7, top_p=None, top_k=-1, min_p=None))
    assert asked is not None
    assert asked.start == 7
    assert asked.shape == pick.Shape(0.7)
