"""Tiny strong and weak models of one vocabulary, real answers and their tapes."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from models.tiny import tiny_source
from narrows.audit.auditor import Rules, TapeAuditor
from narrows.audit.page.series import Series, about
from narrows.audit.report import report
from narrows.audit.scorer import RuntimeScorer
from narrows.bench.audit.tape import Played, make_requests, serve
from narrows.models.api import TokenModel
from narrows.models.checkpoint.pack import pack
from narrows.models.registry import load_model
from narrows.wire.tape import Record, TapeReader

KEY = b"c" * 32


@functools.cache
def tiny_path(seed: int) -> Path:
    path = Path(tempfile.mkdtemp(prefix="narrows-test-")) / f"tiny-{seed}.narrows"
    pack(tiny_source(seed=seed), path, name=f"tiny-{seed}", threads=1)
    return path


@functools.cache
def tiny(seed: int) -> TokenModel:
    return load_model(tiny_path(seed), threads=1, kv_bytes=16 << 20)


def strong() -> TokenModel:
    return tiny(1)


def weak() -> TokenModel:
    return tiny(2)


@functools.cache
def played(
    answers: int = 6, tokens: int = 40, temperature: float = 1.0, top_p: float = 1.0
) -> tuple[Played, ...]:
    prompts = [f"hello {number}" for number in range(answers)]
    return tuple(serve(strong(), make_requests(prompts, tokens, temperature, top_p)))


def auditor(rules: Rules | None = None, model: TokenModel | None = None) -> TapeAuditor:
    weaks = {weak().digest: weak()}
    return TapeAuditor(RuntimeScorer(model or strong()), weaks, rules or Rules(), KEY)


def audited(
    tape: bytes, rules: Rules | None = None, model: TokenModel | None = None
) -> TapeAuditor:
    one = auditor(rules, model)
    one.feed(tape)
    one.replay.close()
    return one


def reported(tape: bytes, rules: Rules | None = None) -> dict[str, Any]:
    """As ``narrows audit run`` writes it."""
    series = Series()
    weaks = {weak().digest: weak()}
    scorer = RuntimeScorer(strong())
    one = TapeAuditor(scorer, weaks, rules or Rules(), KEY, on_drawn=series.drawn)
    series.follow(one)
    one.feed(tape)
    one.replay.close()
    return report(one) | series.found() | {"model": about(one)}


def records(tape: bytes) -> list[Record]:
    return TapeReader().feed(tape)
