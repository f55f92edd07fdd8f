"""The engine in torch: the same integers as both others, and a wrong device is refused."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.models import VARIANTS, artifact_path, rewritten, runtime_of
from narrows.bench.runtime_exact import cut, run_way
from narrows.errors import ArtifactError, InputError
from narrows.models.artifact import Artifact
from narrows.models.registry import load_model
from narrows.models.runtime.runtime import load_runtime

torch = pytest.importorskip("torch")

from narrows.models.device import attention, ops, products  # noqa: E402
from narrows.models.device.load import device_named  # noqa: E402
from narrows.models.device.probe import wrong_operation  # noqa: E402

CPU = torch.device("cpu")
ENGINE = "torch:cpu"


def tokens_of(count: int, seed: int, vocab: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(vocab) for _ in range(count)]


@pytest.fixture
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The products of a CUDA device on this CPU: ``int8``, or the CPU's own."""
    if request.param == "int8":
        monkeypatch.setattr(
            "narrows.models.device.load.products_for", lambda device: products.Int8Products()
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_thousand_tokens_give_the_fast_engines_integers(variant: str) -> None:
    """Sequences of 333 to 667 tokens: windows of 512 slide."""
    model, fast = runtime_of(variant, backend=ENGINE), runtime_of(variant)
    assert model.backend == "torch-cpu"
    sequences = cut(tokens_of(2000, 3, fast.vocab_size), 4)
    assert run_way(model, sequences, "prefill") == run_way(fast, sequences, "prefill")
    short = cut(tokens_of(160, 4, fast.vocab_size), 3)
    wanted = run_way(runtime_of(variant, backend="reference"), short, "prefill")
    for way in ("chunked", "fork", "batch:3"):
        assert run_way(model, short, way) == wanted, way


@pytest.mark.parametrize("form", ["int8"], indirect=True)
@pytest.mark.parametrize("variant", ["qwen3", "odd"])
@pytest.mark.usefixtures("form")
def test_the_products_of_a_cuda_device_give_them_too(variant: str) -> None:
    model, fast = runtime_of(variant, backend=ENGINE), runtime_of(variant)
    sequences = cut(tokens_of(120, 5, fast.vocab_size), 2)
    for way in ("prefill", "batch:2"):
        assert run_way(model, sequences, way) == run_way(fast, sequences, way)


def test_memory_bounds_cut_a_batch_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = cut(tokens_of(200, 6, 300), 5)
    wanted = run_way(runtime_of("llama"), sequences, "batch:5")
    prefilled = run_way(runtime_of("llama"), sequences, "prefill")
    monkeypatch.setattr(attention, "_ELEMENTS", 1 << 13)
    monkeypatch.setattr(products, "_ELEMENTS", 1 << 13)
    monkeypatch.setattr(
        "narrows.models.device.load.products_for", lambda device: products.Int8Products()
    )
    model = runtime_of("llama", backend=ENGINE)
    assert run_way(model, sequences, "batch:5") == wanted
    assert run_way(model, sequences, "prefill") == prefilled


@pytest.mark.parametrize("variant", ["qwen2", "llama3"])
def test_any_schedule_gives_the_fast_engines_integers(variant: str) -> None:
    """Few pages, so that they are taken again while they hold others' keys."""
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    rng = random.Random(seed)
    pair = [runtime_of(variant, kv_bytes=1 << 19, backend=name) for name in (ENGINE, "numba")]
    live: list[tuple[Any, ...]] = []
    for _ in range(60):
        what = rng.choice(["open", "step", "step", "extend", "fork", "close"]) if live else "open"
        fresh = [rng.randrange(6) for _ in range(rng.randrange(1, 90))]
        if what == "open":
            opened = _both(lambda side: pair[side].open(fresh))  # noqa: B023
            if opened:
                live.append(opened)
                _alike(lambda side: pair[side].logits(opened[side]))  # noqa: B023
        elif what == "fork":
            picked = rng.choice(live)
            live.append(tuple(pair[side].fork(picked[side]) for side in (0, 1)))
        elif what == "close":
            picked = live.pop(rng.randrange(len(live)))
            for side in (0, 1):
                pair[side].close(picked[side])
        elif what == "extend":
            picked = rng.choice(live)
            _alike(lambda side: pair[side].extend(picked[side], fresh))  # noqa: B023
        else:
            some = rng.sample(live, rng.randrange(1, len(live) + 1))
            tokens = fresh[:1] * len(some)
            _alike(lambda side: pair[side].advance([s[side] for s in some], tokens))  # noqa: B023


def _both(call: Callable[[int], Any]) -> tuple[Any, ...]:
    """What both sides say; empty where both find their memory full."""
    found, full = [], []
    for side in (0, 1):
        try:
            found.append(call(side))
        except InputError as error:
            full.append(str(error))
    assert len(full) in (0, 2)
    assert all("full" in text for text in full)
    return tuple(found)


def _alike(call: Callable[[int], Any]) -> None:
    if found := _both(call):
        assert np.array_equal(*found)


def _by_reciprocal(real: Any) -> Any:
    return lambda a, b: a * torch.reciprocal(b)


def _saturating(left: Any, right: Any) -> Any:
    """As on processors without byte instructions: unsigned left, pairs in 16 bits."""
    pairs = (left.int() + 128)[:, None] * right.t().int()[None]
    pairs = pairs.reshape(*pairs.shape[:2], -1, 2).sum(-1).clamp(-32768, 32767)
    return (pairs.sum(-1) - 128 * right.sum(0)).int()


def _fused(a: Any, b: Any, c: Any) -> Any:
    wide = c.double() if isinstance(c, torch.Tensor) else c
    return (a.double() * b.double() + wide).float()


WRONG = {
    "a reciprocal for a division": (torch, "div", _by_reciprocal),
    "a square root in binary32": (torch, "sqrt", lambda real: lambda x: real(x.float()).double()),
    "ties away from zero": (
        torch,
        "round",
        lambda real: lambda x: torch.sign(x) * torch.floor(x.abs() + 0.5),
    ),
    "a fused multiplication": (ops, "multiply_add", lambda real: _fused),
    "the device's own power": (ops, "exp2", lambda real: torch.exp2),
    "saturating pairs": (torch, "_int_mm", lambda real: _saturating),
    "sums that wrap early": (
        torch,
        "bmm",
        lambda real: lambda a, b: real(a, b).to(torch.int16).to(torch.int32),
    ),
    "a product in bfloat16": (
        torch,
        "mm",
        lambda real: lambda a, b: (a.bfloat16() @ b.bfloat16()).to(torch.int32),
    ),
    "a maximum that is off": (attention, "nonzero_top", lambda real: lambda t: (t < 1e-3, t + 1)),
}


@pytest.mark.parametrize("fault", WRONG)
def test_the_probe_refuses_a_device_with(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    form = products.Int8Products() if fault == "saturating pairs" else products.Int32Products()
    monkeypatch.setattr("narrows.models.device.load.products_for", lambda device: form)
    owner, name, make = WRONG[fault]
    monkeypatch.setattr(owner, name, make(getattr(owner, name)))
    with pytest.raises(ArtifactError, match="computes other integers"):
        runtime_of("llama", backend=ENGINE)


def test_the_probe_passes_here_in_both_forms() -> None:
    assert wrong_operation(CPU, products.Int8Products()) == ""
    assert wrong_operation(CPU, products.Int32Products()) == ""


def test_a_product_that_is_wrong_in_the_models_own_size_alone_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = products.Int32Products.mm

    def off(self: Any, left: Any, weight: Any, outputs: int) -> Any:
        found = real(self, left, weight, outputs)
        if outputs == 192:  # gate and up of the tiny models, none of the probe's own
            found[0, 7] += 1
        return found

    monkeypatch.setattr(products.Int32Products, "mm", off)
    assert wrong_operation(CPU) == ""
    with pytest.raises(ArtifactError, match="gate_up with"):
        runtime_of("llama", backend=ENGINE)


def test_the_conformance_digest_decides_at_last(tmp_path: Path) -> None:
    old = Artifact.open(artifact_path("llama"))
    header = dict(old.header) | {"conformance": "00" * 32}
    other = Artifact(old.path, header, list(old._entries.values()), old._data, old.digest)
    with pytest.raises(ArtifactError, match="other integers"):
        load_runtime(other, threads=1, kv_bytes=16 << 20, backend=ENGINE)
    with pytest.raises(ArtifactError, match="no conformance digest"):
        load_runtime(rewritten("llama", tmp_path, {}), kv_bytes=16 << 20, backend=ENGINE)


def test_devices_that_are_not_there() -> None:
    assert device_named("cpu") == CPU
    for name in ("torch:tpu", "torch:cuda:x", "torch:", "jax"):
        with pytest.raises(InputError, match="no engine"):
            runtime_of("llama", backend=name)
    with pytest.raises(InputError, match="CUDA devices"):
        runtime_of("llama", backend="torch:cuda:99")


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("narrows.models.device")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match="needs torch") as caught:
        runtime_of("llama", backend="torch")
    assert "[torch]" in caught.value.remedy
    assert runtime_of("llama").backend.startswith("numba")


def test_a_model_is_loaded_by_the_engines_name() -> None:
    one, other = (load_model(artifact_path("llama"), engine=e, threads=1) for e in (ENGINE, "auto"))
    assert one.numerics == other.numerics
    assert one.cache_bytes == other.cache_bytes
    assert one.stream_bytes(100) == other.stream_bytes(100)
