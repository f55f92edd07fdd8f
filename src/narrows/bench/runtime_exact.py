"""Exactness: one set of token sequences fed in every way there is, one digest each.

Run as a program it computes one digest in its own process, so that another processor name
(``NUMBA_CPU_NAME``) can be tried::

    python -m narrows.bench.runtime_exact ARTIFACT SEQUENCES.json WAY THREADS BACKEND
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from narrows.errors import PeerError
from narrows.models.api import Logits, TokenModel
from narrows.models.distribution import frequencies

Sequences = list[list[int]]
Report = Callable[[str], None]
KV_BYTES = 1 << 30


class _Sinks:
    """A hash per sequence: ways of feeding differ in the order in which sequences advance."""

    def __init__(self, count: int) -> None:
        self._hashes = [hashlib.sha256() for _ in range(count)]

    def put(self, index: int, logits: Logits) -> None:
        self._hashes[index].update(frequencies(logits).astype("<u4").tobytes())

    def digest(self) -> str:
        return hashlib.sha256(b"".join(h.digest() for h in self._hashes)).hexdigest()


def cut(tokens: list[int], count: int = 16) -> Sequences:
    """``count`` sequences of unequal lengths (1 : 2 from shortest to longest), all tokens."""
    weights = np.linspace(1.0, 2.0, count)
    edges = np.rint(np.cumsum(weights) / weights.sum() * len(tokens)).astype(int)
    return [tokens[a:b] for a, b in zip([0, *edges[:-1]], edges, strict=True)]


def run_way(model: TokenModel, sequences: Sequences, way: str) -> str:
    """Digest over the distributions after every token. ``way``: prefill, chunked, fork, batch:N."""
    sinks = _Sinks(len(sequences))
    if way.startswith("batch:"):
        _batched(model, sequences, int(way[6:]), sinks)
        return sinks.digest()
    for index, tokens in enumerate(sequences):
        stream = model.open(tokens[:1])
        sinks.put(index, model.logits(stream))
        sizes = (256,) if way == "prefill" else (7, 64, 1, 100, 33)
        at, turn = 1, 0
        while at < len(tokens):
            chunk = tokens[at : at + sizes[turn % len(sizes)]]
            if way == "fork":
                twin = model.fork(stream)
                model.extend(stream, [(token + 1) % model.vocab_size for token in chunk])
                model.close(stream)
                stream = twin
            for row in model.extend(stream, chunk):
                sinks.put(index, row)
            at, turn = at + len(chunk), turn + 1
        model.close(stream)
    return sinks.digest()


def _batched(model: TokenModel, sequences: Sequences, width: int, sinks: _Sinks) -> None:
    waiting = list(range(len(sequences)))
    active: list[tuple[int, object, int]] = []
    while waiting or active:
        while waiting and len(active) < width:
            index = waiting.pop(0)
            stream = model.open(sequences[index][:1])
            sinks.put(index, model.logits(stream))
            active.append((index, stream, 1))
        live = [entry for entry in active if entry[2] < len(sequences[entry[0]])]
        for entry in active:
            if entry not in live:
                model.close(entry[1])  # type: ignore[arg-type]  # opaque
        if live:
            streams = [entry[1] for entry in live]
            rows = model.advance(
                streams,  # type: ignore[arg-type]  # opaque
                [sequences[index][at] for index, _, at in live],
            )
            for (index, _, _), row in zip(live, rows, strict=True):
                sinks.put(index, row)
        active = [(index, stream, at + 1) for index, stream, at in live]


# name: (way, threads, backend, NUMBA_CPU_NAME)
MATRIX = {
    "prefill, 2 threads": ("prefill", 2, "auto", ""),
    "prefill, 1 thread": ("prefill", 1, "auto", ""),
    "chunked prefill": ("chunked", 2, "auto", ""),
    "forks": ("fork", 2, "auto", ""),
    "step by step, batch 1": ("batch:1", 2, "auto", ""),
    "batch 3": ("batch:3", 2, "auto", ""),
    "batch 16": ("batch:16", 2, "auto", ""),
    "batch 16, 1 thread": ("batch:16", 1, "auto", ""),
    "generic processor, prefill": ("prefill", 2, "auto", "generic"),
    "generic processor, batch 16": ("batch:16", 1, "auto", "generic"),
    "reference, prefill": ("prefill", 1, "reference", ""),
}


def engine_matrix(engine: str) -> dict[str, tuple[str, int, str, str]]:
    """The ways of MATRIX for another engine, and the two that it has to equal."""
    ways = ("prefill", "chunked", "fork", "batch:16")  # unequal lengths: batches of 16 down to 1
    return {f"{engine}, {way}": (way, 0, engine, "") for way in ways} | {
        "numba, prefill": ("prefill", 0, "numba", ""),
        "reference, prefill": ("prefill", 0, "reference", ""),
    }


def exactness(
    artifact: Path,
    sequences: Sequences,
    report: Report,
    matrix: dict[str, tuple[str, int, str, str]] = MATRIX,
) -> dict[str, str]:
    """Name of each entry of ``matrix`` to its digest; every one in a process of its own."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sequences.json"
        file.write_text(json.dumps(sequences))
        for name, (way, threads, backend, processor) in matrix.items():
            report(f"exactness: {name}")
            environment = dict(os.environ)
            environment.pop("NUMBA_CPU_NAME", None)
            if processor:
                environment["NUMBA_CPU_NAME"] = processor
            command = [sys.executable, "-m", "narrows.bench.runtime_exact", str(artifact)]
            command += [str(file), way, str(threads), backend]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise PeerError(f"{name}: {done.stderr.strip()[-500:]}")
            found[name] = done.stdout.strip()
    return found


def _main() -> None:
    from narrows.models.artifact import Artifact
    from narrows.models.runtime.runtime import load_runtime

    artifact, file, way, threads, backend = sys.argv[1:]
    kv_bytes = KV_BYTES if backend != "reference" else 64 << 20
    model = load_runtime(
        Artifact.open(Path(artifact)), threads=int(threads), kv_bytes=kv_bytes, backend=backend
    )
    sys.stdout.write(run_way(model, json.loads(Path(file).read_text()), way) + "\n")


if __name__ == "__main__":
    _main()
