"""A server of transformers that samples with the shared noise, step by step, in any precision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from narrows.audit.torch_scorer import TorchScorer, to_q16
from narrows.bench.audit.tape import Played
from narrows.coding.events import Finish
from narrows.coding.spec import fixed_q16
from narrows.coding.tokens.sampler import sample
from narrows.wire.messages import Request

MAX_BATCH = 32


def serve_torch(model: TorchScorer, module: Any, requests: Sequence[Request]) -> list[Played]:
    """Answers of one prompt in one batch, one step a token, with a cache, as servers do.
    ``model`` brings template and tokenizer, ``module`` the arithmetic."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, request in enumerate(requests):
        groups[tuple(model.prompt(request.body))].append(number)
    found: dict[int, Played] = {}
    for prompt, numbers in groups.items():
        for start in range(0, len(numbers), MAX_BATCH):
            part = numbers[start : start + MAX_BATCH]
            answers = _batch(model, module, prompt, [requests[number] for number in part])
            found |= dict(zip(part, answers, strict=True))
    return [found[number] for number in range(len(requests))]


def _batch(
    model: TorchScorer, module: Any, prompt: tuple[int, ...], requests: Sequence[Request]
) -> list[Played]:
    answers: list[list[int]] = [[] for _ in requests]
    ends: list[Finish | None] = [None] * len(requests)
    ids = torch.tensor([list(prompt)] * len(requests), device=module.device)
    cache = None
    with torch.inference_mode():
        for position in range(int(requests[0].body["max_tokens"])):
            step = module(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = step.past_key_values
            rows = to_q16(step.logits[:, -1, : model.vocab_size])
            ids = torch.zeros((len(requests), 1), dtype=torch.long, device=module.device)
            for index, request in enumerate(requests):
                if ends[index] is not None:
                    continue
                temperature = fixed_q16(request.body.get("temperature"), 1.0, 2.0)
                top_p = fixed_q16(request.body.get("top_p"), 1.0, 1.0)
                key = bytes.fromhex(request.noise_key)
                token = sample(rows[index], temperature, top_p, key, position)
                if token in model.tokenizer.eos_ids:
                    ends[index] = Finish.STOP
                    continue
                answers[index].append(token)
                ids[index, 0] = token
            if all(end is not None for end in ends):
                break
    return [
        Played(request, tuple(tokens), end or Finish.LENGTH)
        for request, tokens, end in zip(requests, answers, ends, strict=True)
    ]
