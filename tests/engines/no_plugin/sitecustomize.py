"""First on ``PYTHONPATH``, it makes a process of vLLM see an installation without narrows-vllm."""

from __future__ import annotations

import importlib.metadata as metadata
from typing import Any

_all = metadata.entry_points


def _others(**wanted: Any) -> Any:
    found = _all(**wanted)
    if wanted.get("group") != "vllm.logits_processors":
        return found
    return metadata.EntryPoints(one for one in found if not one.value.startswith("narrows_vllm"))


metadata.entry_points = _others
