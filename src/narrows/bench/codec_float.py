"""The float32 model's code length of the same answers: what exact integers are measured by."""

from __future__ import annotations

import math
from collections.abc import Sequence

from narrows.errors import InputError, missing_extra
from narrows.models.checkpoint.fetch import SMOLLM2_135M, fetch_gguf

MAX_TOKENS = 8192


def float_bits(
    weak: str, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> float:
    """Bits of all answers' tokens (end tokens not counted) behind their prompts, by torch in
    float32 over the dequantised weights. InputError for another model than the built-in one,
    or where torch and transformers are not installed."""
    if weak != SMOLLM2_135M.name:
        raise InputError("--float needs --weak " + SMOLLM2_135M.name)
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise missing_extra("--float needs torch and transformers", "bench") from error
    path = fetch_gguf()
    model = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32
    ).eval()
    total = 0.0
    with torch.inference_mode():
        for prompt, answer in zip(prompts, answers, strict=True):
            ids = torch.tensor([[*prompt, *answer]][:MAX_TOKENS])
            hidden = model.model(ids).last_hidden_state[0, len(prompt) - 1 : -1]
            for start in range(0, len(answer), 256):
                logits = model.lm_head(hidden[start : start + 256])
                wanted = ids[0, len(prompt) + start : len(prompt) + start + len(logits)]
                total += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
    return total / math.log(2)
