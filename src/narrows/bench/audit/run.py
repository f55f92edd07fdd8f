"""What ``narrows bench audit`` measures: real answers, their tape, and an audit of all of it."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from narrows.audit.auditor import Drawn, Rules, TapeAuditor
from narrows.audit.choose import scorer_named
from narrows.audit.code import ONE_BIT
from narrows.audit.page.series import Series, about
from narrows.audit.report import report
from narrows.audit.share.attackers import over_truth
from narrows.audit.share.coins import KEY_BYTES
from narrows.bench.audit.tape import (
    Played,
    TapeRecorder,
    edge_decode_s,
    make_requests,
    play,
    serve,
)
from narrows.bench.audit.thieves import SLACK_BITS, ModelSpeaker, thefts
from narrows.bench.coupled import PROMPTS, five_bit_model, generate, render
from narrows.coding.events import Coding
from narrows.errors import InputError
from narrows.models.api import TokenModel
from narrows.models.registry import load_model

STRONG = "smollm2-135m"
ENGINES = ("runtime", "bfloat16", "float32", "int8")
SIMULATED_SEGMENTS = 200_000
BOUND_SHARE, BOUND_DELTA = 0.05, 1e-9
Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """``engine``: what serves; ``scorer``: what audits; ``weak``: None for 5-bit weights."""

    engine: str = "runtime"
    scorer: str = "runtime"
    weak: str | None = None
    answers: int = 64
    tokens: int = 100
    temperature: float = 1.0
    top_p: float = 1.0
    tick_ms: int = 100
    token_ms: float = 50.0


def served(settings: Settings, say: Say) -> list[Played]:
    """The answers: prompts in turn, a noise key each."""
    prompts = [PROMPTS[n % len(PROMPTS)] for n in range(settings.answers)]
    requests = make_requests(prompts, settings.tokens, settings.temperature, settings.top_p)
    say(f"{STRONG} answers {settings.answers} requests, {settings.engine}")
    if settings.engine == "runtime":
        return serve(load_model(STRONG), requests)
    if settings.engine not in ENGINES:
        raise InputError(f"no engine {settings.engine!r}", f"one of {', '.join(ENGINES)}")
    import torch

    from narrows.audit.torch_scorer import load_torch
    from narrows.bench.audit.server import serve_torch

    wide = torch.bfloat16 if settings.engine == "bfloat16" else torch.float32
    model = load_torch(STRONG, wide, device="cpu")
    module: Any = model.module
    if settings.engine == "int8":
        module = torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear}, torch.qint8)
    return serve_torch(model, module, requests)


def measure(settings: Settings, say: Say) -> dict[str, Any]:
    """One run. InputError: no such engine, scorer or model."""
    with ExitStack() as stack:
        answers = served(settings, say)
        weak = _weak(settings.weak, stack, say)
        say("the link's encoder codes the answers")
        recorder = TapeRecorder(weak, tick_ms=settings.tick_ms)
        tape = play(recorder, answers, Coding.COUPLED, settings.token_ms)
        scorer = scorer_named(settings.scorer, STRONG)
        costs: list[float] = []
        series = Series()

        def keep(drawn: Drawn) -> None:
            costs.append(drawn.cost_q16 / ONE_BIT)
            series.drawn(drawn)

        auditor = TapeAuditor(scorer, {weak.digest: weak}, Rules(), bytes(KEY_BYTES), on_drawn=keep)
        series.follow(auditor)
        say("the edge decodes the link")
        edge_s = edge_decode_s(tape, weak)
        say("the auditor decodes the tape")
        began = time.perf_counter()
        segments = list(auditor.replay.feed(tape))
        decode_s = time.perf_counter() - began
        auditor.replay.close()
        say("the auditor recomputes the answers")
        began = time.perf_counter()
        for segment in segments:
            auditor.take(segment)
        prefill_s = time.perf_counter() - began
        found = report(auditor) | series.found() | {"model": about(auditor)}
        tokens = max(1, auditor.tally.tokens)
        return {
            "engine": settings.engine,
            "weak": weak.name,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            **found,
            "scorer": settings.scorer,
            "segment_bits": round(sum(costs) / tokens, 5),
            "timing_bits": round(recorder.timing_bits, 1),
            "link_bits_a_token": round(auditor.replay.bits.get("tokens", 0.0) / tokens, 4),
            "bound_over_truth": _bound_over_truth(costs),
            "prefill_tok_s": round(tokens / prefill_s, 1),
            "decode_tok_s": round(tokens / decode_s, 1),
            "edge_decode_tok_s": round(tokens / edge_s, 1),
            "audit_tok_s": {
                f"{share:g}": round(tokens / (decode_s + share * prefill_s), 1)
                for share in (1.0, BOUND_SHARE)
            },
        }


def steal(runs: int, tokens: int, say: Say) -> dict[str, Any]:
    """Each thief ``runs`` times, on the exact runtime: what he carried and what he was charged."""
    model = load_model(STRONG)
    found = []
    for run in range(runs):
        key = hashlib.sha256(f"narrows bench thieves {run}".encode()).digest()
        with ExitStack() as stack:
            fresh = partial(_speaker, model, render(model, PROMPTS[run % len(PROMPTS)]), stack)
            for theft in thefts(fresh, key, run, tokens):
                say(f"{theft.thief}: {theft.payload_bits} bits for {theft.charge_bits:.0f}")
                found.append(asdict(theft) | {"charged": theft.charged})
    return {"scorer": "runtime", "model": STRONG, "slack_bits": SLACK_BITS, "thieves": found}


def _speaker(model: TokenModel, prompt: list[int], stack: ExitStack) -> ModelSpeaker:
    speaker = ModelSpeaker(model, prompt)
    stack.callback(speaker.close)
    return speaker


def _weak(name: str | None, stack: ExitStack, say: Say) -> TokenModel:
    if name is not None:
        return load_model(name)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    return five_bit_model(generate(load_model(STRONG), 50, ONE_BIT), folder, say)


def _bound_over_truth(costs: list[float]) -> float | None:
    """The bound over the truth at f = 5 % after 200,000 segments that cost like these."""
    if not costs:
        return None
    rng = np.random.default_rng(1)
    w = np.minimum(1.0, rng.choice(np.array(costs), SIMULATED_SEGMENTS) / Rules().bound_bits)
    return round(over_truth(w, BOUND_SHARE, BOUND_DELTA, seed=1), 3)
