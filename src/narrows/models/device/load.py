"""An engine in torch that has been asked whether its device is right, or the reason why not."""

from __future__ import annotations

import torch

from narrows.errors import ArtifactError, InputError
from narrows.models.device.engine import TorchEngine
from narrows.models.device.probe import wrong_operation, wrong_product
from narrows.models.device.products import products_for
from narrows.models.runtime.engine import Tensors
from narrows.models.runtime.numerics import Shape


def device_named(name: str) -> torch.device:
    """``cpu``, ``cuda``, ``cuda:N``; empty: the first CUDA device, the CPU where there is none.
    InputError: there is no such device here."""
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device(name or ("cuda" if found else "cpu"))
    if device.type == "cuda" and (device.index or 0) >= found:
        raise InputError(
            f"torch finds {found} CUDA devices here; {name} is none of them",
            'use engine "torch:cpu", or leave it at "auto"',
        )
    return device


def torch_engine(
    shape: Shape, tensors: Tensors, pages: int, name: str, threads: int
) -> TorchEngine:
    """``name``: as ``device_named`` takes it. ``threads``: of torch on the CPU, in the whole
    process. ArtifactError: torch is not exact there. InputError: no such device, or its memory
    does not hold the model."""
    device = device_named(name)
    if device.type == "cpu":
        torch.set_num_threads(threads)
    products = products_for(device)
    try:
        wrong = wrong_operation(device, products)
        if not wrong:
            engine = TorchEngine(shape, tensors, pages, device, products)
            wrong = wrong_product(engine, tensors)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{device} has no memory for the model and {pages} pages of its cache",
            "give the model less kv_mib, or use another device",
        ) from error
    if wrong:
        raise ArtifactError(
            f"torch {torch.__version__} on {device} computes other integers: {wrong}",
            'the device cannot serve; use engine "auto", or another version of torch',
        )
    return engine
