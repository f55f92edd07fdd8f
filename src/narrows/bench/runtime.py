"""``narrows bench runtime``: bits, exactness, speed and memory of the exact runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from narrows.bench.runtime_exact import cut, engine_matrix, exactness
from narrows.bench.runtime_quality import RecordedAnswer, exact_bits, float_bits, read_answers
from narrows.bench.runtime_speed import SLOTS, LlamaCpp, Ours
from narrows.errors import PeerError
from narrows.models.checkpoint.fetch import fetch_gguf
from narrows.models.registry import load_model, resolve
from narrows.models.served import ServedModel

Report = Callable[[str], None]
MODEL = "smollm2-135m"
_KV_BYTES = 1 << 30

_START = """
import json, resource, sys, time
begin = time.perf_counter()
from narrows.models.registry import load_model
model = load_model(sys.argv[1], threads=int(sys.argv[2]))
start_s = time.perf_counter() - begin
stream = model.open(list(range(1, 400)))
for _ in range(4):
    model.advance([stream], [5])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
print(json.dumps({"start_s": start_s, "rss_mb": peak}))
"""


def start_and_memory(threads: int) -> dict[str, float]:
    """Best start of two in fresh processes, and the peak resident memory, in MB of 10**6."""
    runs = []
    for _ in range(2):
        command = [sys.executable, "-c", _START, MODEL, str(threads)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise PeerError(f"the model does not start: {done.stderr.strip()[-500:]}")
        runs.append(json.loads(done.stdout))
    return {
        "start_s": min(run["start_s"] for run in runs),
        "rss_mb": max(run["rss_mb"] for run in runs) * 1.024,
    }


def run(answers_file: Path | None, *, quick: bool, threads: int, report: Report) -> dict[str, Any]:
    """All measurements; the keys are the columns of docs/benchmarks.md. Peers that are not
    installed give null. Raises InputError, ArtifactError, PeerError."""
    threads = threads or min(16, len(os.sched_getaffinity(0)))
    artifact = resolve(MODEL)
    report("start and memory")
    result: dict[str, Any] = {"threads": threads, **start_and_memory(threads)}
    model = load_model(MODEL, threads=threads, kv_bytes=_KV_BYTES)
    if not isinstance(model, ServedModel):
        raise PeerError(f"{MODEL} is not a transformer here")
    result["backend"] = model.runtime.backend
    result["model_digest"] = model.digest.hex()
    result["artifact_mb"] = artifact.stat().st_size / 1e6
    result["rss_bar_mb"] = 250 + 2.2 * result["artifact_mb"]
    answers = read_answers(answers_file, 20 if quick else 1 << 20, model)
    result |= _speed(model, answers, threads, quick, report)
    result |= _quality(model, answers, threads, report)
    result |= _exact(model, answers, artifact, 2000 if quick else 20000, report)
    return result


def run_engine(
    engine: str, model: str, streams: list[int], *, quick: bool, threads: int, report: Report
) -> dict[str, Any]:
    """Another engine beside numba, in alternating rounds, on one model: speeds, their ratios,
    and one digest each way of feeding. Raises InputError, ArtifactError, PeerError."""
    threads = threads or min(16, len(os.sched_getaffinity(0)))
    artifact = resolve(model)
    pair: dict[str, ServedModel] = {}
    for name in (engine, "numba"):
        report(f"loading {name}")
        loaded = load_model(artifact, threads=threads, engine=name)
        if not isinstance(loaded, ServedModel):
            raise PeerError(f"{model} is not a transformer here")
        pair[name] = loaded
    answers = read_answers(None, 20, pair["numba"])
    sides = {name: Ours(one, answers) for name, one in pair.items()}
    rounds: dict[str, dict[str, list[float]]] = {name: {} for name in pair}
    for number in range(2 if quick else 3):
        for name, side in sides.items():
            for count in streams:
                report(f"round {number + 1}, {name}, {count} streams")
                steps = max(2, min(16, (64 if quick else 256) // count))
                found = side.step(count, (100, 200), steps)
                rounds[name].setdefault(f"streams{count}_tok_s", []).append(found)
            report(f"round {number + 1}, {name}, prefill")
            rounds[name].setdefault("prefill_tok_s", []).append(side.prefill())
            rounds[name].setdefault("prompt_tok_s", []).append(side.prompt())
    best = {name: {key: max(all_) for key, all_ in of.items()} for name, of in rounds.items()}
    result: dict[str, Any] = {"threads": threads, "backend": pair[engine].runtime.backend}
    result |= {"model_digest": pair[engine].digest.hex()} | best[engine]
    result |= {f"numba_{key}": value for key, value in best["numba"].items()}
    result |= {f"{key}_ratio": value / best["numba"][key] for key, value in best[engine].items()}
    count = 2000 if quick else 20000
    sequences = cut(_enough(answers, count))
    digests = exactness(artifact, sequences, report, engine_matrix(engine))
    return result | _compared(digests, count)


def _speed(
    model: ServedModel, answers: list[RecordedAnswer], threads: int, quick: bool, report: Report
) -> dict[str, Any]:
    """Rounds of ours and llama.cpp alternate; the best round of each counts."""
    ours = Ours(model, answers)
    rounds: dict[str, list[float]] = {}

    def note(key: str, value: float) -> None:
        rounds.setdefault(key, []).append(value)

    peer = _peer(threads, report)
    for number in range(3):
        report(f"speed, round {number + 1} of 3")
        note("single_tok_s", ours.step(1, (200, 200), 64))
        note("batch16_tok_s", ours.step(SLOTS, (200, 400), 16))
        note("prefill_tok_s", ours.prefill())
        note("prompt_tok_s", ours.prompt())
        if peer is not None:
            note("llamacpp_single_tok_s", peer.single(64))
            note("llamacpp_batch16_tok_s", peer.batch(32))
            note("llamacpp_prefill_tok_s", peer.prefill())
    report("speed: long contexts and 64 streams")
    note("single_ctx2000_tok_s", ours.step(1, (2000, 2000), 32))
    note("batch16_ctx2000_tok_s", ours.step(SLOTS, (2000, 2000), 4 if quick else 16))
    note("batch64_tok_s", ours.step(64, (200, 400), 4 if quick else 16))
    result: dict[str, Any] = dict.fromkeys(
        ("llamacpp_single_tok_s", "llamacpp_batch16_tok_s", "llamacpp_prefill_tok_s")
    )
    result |= {key: max(values) for key, values in rounds.items()}
    for key in ("single", "batch16", "prefill"):
        theirs = result[f"llamacpp_{key}_tok_s"]
        result[f"{key}_ratio"] = result[f"{key}_tok_s"] / theirs if theirs else None
    theirs = result["llamacpp_prefill_tok_s"]
    result["prompt_ratio"] = result["prompt_tok_s"] / theirs if theirs else None
    coding = ours.coding_us()["plain"]
    result["coding_us"] = coding
    result["coding_share_single"] = coding * result["single_tok_s"] / 1e6
    result["coding_share_batch16"] = coding * result["batch16_tok_s"] / 1e6
    return result


def _peer(threads: int, report: Report) -> LlamaCpp | None:
    try:
        return LlamaCpp(fetch_gguf(), threads)
    except ImportError:
        report("xllamacpp is not installed: no comparison with llama.cpp")
        return None


def _quality(
    model: ServedModel, answers: list[RecordedAnswer], threads: int, report: Report
) -> dict[str, Any]:
    size_bits = float(sum(answer.size_bytes for answer in answers))
    exact = exact_bits(
        model, answers, lambda done, total: report(f"bits, exact: {done} of {total}")
    )
    result: dict[str, Any] = {
        "answers": len(answers),
        "answer_tokens": sum(len(answer.tokens) for answer in answers),
        "bpb_exact": exact / size_bits,
        "bpb_float": None,
        "bpb_excess": None,
    }
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError:
        report("transformers is not installed: no comparison with float32")
        return result
    from narrows.models.checkpoint.gguf_model import load_gguf

    floating = float_bits(
        load_gguf(fetch_gguf()),
        answers,
        threads,
        lambda done, total: report(f"bits, float32: {done} of {total}"),
    )
    result["bpb_float"] = floating / size_bits
    result["bpb_excess"] = exact / floating - 1
    return result


def _exact(
    model: ServedModel, answers: list[RecordedAnswer], artifact: Path, count: int, report: Report
) -> dict[str, Any]:
    digests = exactness(artifact, cut(_enough(answers, count)), report)
    return _compared(digests, count)


def _enough(answers: list[RecordedAnswer], count: int) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < count:
        for answer in answers:
            tokens += answer.prompt + answer.tokens
    return tokens[:count]


def _compared(digests: dict[str, str], count: int) -> dict[str, Any]:
    return {
        "exact": len(set(digests.values())) == 1,
        "digest": next(iter(digests.values())),
        "exact_tokens": count,
        "exact_ways": digests,
    }
