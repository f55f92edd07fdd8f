"""Tokens per second: the exact runtime and llama.cpp, in alternating rounds."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from narrows.bench.runtime_quality import RecordedAnswer
from narrows.coding.events import AnswerSpec, Coding
from narrows.coding.range.coder import RangeEncoder
from narrows.coding.tokens.calibrate import Calibration
from narrows.coding.tokens.code import TokenCode
from narrows.models.api import Stream
from narrows.models.served import ServedModel

SLOTS = 16
PREFILL_TOKENS = 448
_SLOT_CONTEXT = 512


class Ours:
    """Each method is one round and returns tokens per second."""

    def __init__(self, model: ServedModel, answers: list[RecordedAnswer]) -> None:
        self._model = model
        pool = [token for answer in answers for token in answer.prompt + answer.tokens]
        while len(pool) < 8192:
            pool += pool
        self._pool = pool
        self._scope = 0

    def _text(self, start: int, count: int) -> list[int]:
        start %= len(self._pool) - count
        return self._pool[start : start + count]

    def step(self, streams: int, contexts: tuple[int, int], steps: int) -> float:
        """Step-by-step decoding of ``streams`` with contexts spread over a range, summed."""
        model = self._model
        opened: list[Stream] = []
        for i in range(streams):
            low, high = contexts
            length = low + (high - low) * i // max(1, streams - 1)
            opened.append(model.open(self._text(i * 131, length)))
        try:
            model.advance(opened, self._text(0, streams))
            start = time.perf_counter()
            for n in range(steps):
                model.advance(opened, self._text(streams * n, streams))
            return streams * steps / (time.perf_counter() - start)
        finally:
            for stream in opened:
                model.close(stream)

    def prefill(self) -> float:
        """A finished answer in passes of 256: every distribution is computed."""
        model = self._model
        stream = model.open(self._text(77, 1))
        start = time.perf_counter()
        for at in range(0, PREFILL_TOKENS, 256):
            model.extend(stream, self._text(78 + at, min(256, PREFILL_TOKENS - at)))
        spent = time.perf_counter() - start
        model.close(stream)
        return PREFILL_TOKENS / spent

    def prompt(self) -> float:
        """A prompt: one distribution at its end, which is what llama.cpp's evaluation computes.
        A scope of its own each time, so that no cached prefix is found."""
        self._scope += 1
        start = time.perf_counter()
        stream = self._model.open(self._text(77, PREFILL_TOKENS), self._scope)
        spent = time.perf_counter() - start
        self._model.close(stream)
        return PREFILL_TOKENS / spent

    def coding_us(self) -> dict[str, float]:
        """Microseconds per token of the distribution and plain coding, on real logits."""
        model = self._model
        tokens = self._text(5, 129)
        stream = model.open(tokens[:1])
        rows = model.extend(stream, tokens[1:]).copy()
        model.close(stream)
        spec = AnswerSpec(prompt=tuple(tokens[:1]), max_tokens=1024)
        best = 1e9
        for _ in range(3):
            code = TokenCode(spec, Coding.PLAIN, model.vocab_size, Calibration())
            encoder = RangeEncoder()
            start = time.perf_counter()
            for row, token in zip(rows, [*tokens[2:], tokens[0]], strict=True):
                code.prepare(row)
                encoder.encode(*code.interval(token))
                code.update(token)
            best = min(best, (time.perf_counter() - start) / len(rows))
            code.close()
        return {"plain": best * 1e6}


class LlamaCpp:
    """The same GGUF in xllamacpp's server, called in this process."""

    def __init__(self, gguf: Path, threads: int) -> None:
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(gguf)
        parameters.n_ctx = SLOTS * _SLOT_CONTEXT
        parameters.n_parallel = SLOTS
        parameters.cpuparams.n_threads = threads
        parameters.cpuparams_batch.n_threads = threads
        parameters.verbosity = -1
        self._server = xllamacpp.Server(parameters)

    def _complete(self, prompt: list[int], count: int) -> dict[str, Any]:
        request = {
            "prompt": prompt,
            "n_predict": count,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        answer = self._server.handle_completions(request)
        answer = answer if isinstance(answer, dict) else json.loads(answer)
        timings: dict[str, Any] = answer["timings"]
        return timings

    def single(self, steps: int) -> float:
        return float(self._complete(list(range(100, 300)), steps)["predicted_per_second"])

    def prefill(self) -> float:
        timings = self._complete(list(range(1000, 1000 + PREFILL_TOKENS)), 1)
        return float(timings["prompt_per_second"])

    def batch(self, steps: int) -> float:
        """All slots at once: the sum of their own rates, which leave prompts out."""
        rates = [0.0] * SLOTS

        def ask(i: int) -> None:
            start = 500 + 997 * i
            length = 200 + 200 * i // (SLOTS - 1)
            timings = self._complete(list(range(start, start + length)), steps)
            rates[i] = float(timings["predicted_per_second"])

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(SLOTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(rates)
