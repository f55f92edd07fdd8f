"""Names of the engines that run an artifact, for configurations; light, imports no library.

auto               numba, or the reference where a probe finds numba's products inexact
numba, reference   that one
torch              PyTorch on the first CUDA device, on the CPU where there is none
torch:DEVICE       PyTorch on ``cpu``, ``cuda`` or ``cuda:N``
"""

from __future__ import annotations

import re

_NAME = re.compile(r"auto|numba|reference|torch(:(cpu|cuda(:[0-9]{1,2})?))?", re.ASCII)
CHOICES = "auto, numba, reference, torch, torch:cpu, torch:cuda or torch:cuda:N"


def engine_problems(name: str) -> list[str]:
    """Empty where ``name`` is an engine's; else the sentence that says what may stand there."""
    return [] if _NAME.fullmatch(name) else [f"no engine {name!r}; it is {CHOICES}"]
