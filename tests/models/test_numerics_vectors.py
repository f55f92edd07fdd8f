"""The two models of docs/numerics.md, "Test vectors": their digests, and that the page has them."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from narrows.models.runtime.conformance import conformance_digest
from narrows.models.runtime.engine import Engine, tensor_table
from narrows.models.runtime.fast import FastEngine
from narrows.models.runtime.numerics import PRODUCTS, Shape, shape_from_header
from narrows.models.runtime.reference import ReferenceEngine
from narrows.models.runtime.runtime import Runtime

PAGE = Path(__file__).parents[2] / "docs" / "numerics.md"
PAGES = 8
PART: dict[str, Any] = {
    "version": 1,
    "vocab": 256,
    "hidden": 64,
    "ffn": 96,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 16,
    "max_context": 128,
    "norm_eps": 2.0**-17,
    "state_eps": 2.0**-11,
    "qkv_bias": True,
    "qk_norm": True,
    "wide": [],
    "rope_base": 10000.0,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position": 64.0,
    },
}


def vector_tensors(part: dict[str, Any]) -> dict[str, np.ndarray]:
    """One generator through all tensors, in the order of their names."""
    state = 1
    tensors = {}
    for name, (dtype, size) in sorted(tensor_table(shape_from_header({"numerics": part})).items()):
        draws = np.empty(int(np.prod(size)), np.int64)
        for index in range(len(draws)):
            state = (1103515245 * state + 12345) % 2**31
            draws[index] = state >> 16
        if dtype == "int8":
            values = draws % 255 - 127
        elif name == "head.scale":
            values = (1 + draws % 16) * 2.0**6
        elif name.endswith(".scale"):
            values = (1 + draws % 16) * 2.0**-13
        elif name.endswith(".bias"):
            values = (draws % 17 - 8) * 2.0**-3
        else:
            values = (1 + draws % 16) * 2.0**-3
        tensors[name] = values.astype(dtype).reshape(size)
    return tensors


def engines(part: dict[str, Any]) -> list[Engine]:
    shape, tensors = shape_from_header({"numerics": part}), vector_tensors(part)
    return [
        FastEngine(shape, tensors, PAGES, 2),
        ReferenceEngine(shape, tensors, PAGES),
        *torch_engines(shape, tensors),
    ]


def torch_engines(shape: Shape, tensors: dict[str, np.ndarray]) -> list[Engine]:
    """Both forms of its products; none where torch is not installed."""
    if find_spec("torch") is None:
        return []
    import torch

    from narrows.models.device.engine import TorchEngine
    from narrows.models.device.products import Int8Products, Int32Products

    forms = (Int8Products(), Int32Products())
    return [TorchEngine(shape, tensors, PAGES, torch.device("cpu"), form) for form in forms]


@pytest.mark.parametrize(("name", "wide"), [("narrow", ()), ("wide", PRODUCTS)])
def test_the_digests_of_the_page(name: str, wide: tuple[str, ...]) -> None:
    found = re.search(rf"^\| {name} \| .* \| `([0-9a-f]{{64}})` \|$", PAGE.read_text(), re.M)
    assert found
    for engine in engines(PART | {"wide": sorted(wide)}):
        model = Runtime(engine, PAGES, name=name, digest=bytes(32), tokenizer=None)
        assert conformance_digest(model).hex() == found[1], engine.backend
