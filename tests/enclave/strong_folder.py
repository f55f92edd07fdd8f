"""A strong model's folder, and the fake server that serves it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.tiny import SPECIALS, TEMPLATE, tiny_config, tiny_tokenizer_json

VOCAB = tiny_config().vocab_size


def write_folder(
    folder: Path, *, template: str = TEMPLATE, vocab_size: int = VOCAB, **said: Any
) -> Path:
    """The files that a checkpoint has beside its weights. ``said``: more of
    tokenizer_config.json."""
    folder.mkdir(exist_ok=True)
    files: dict[str, Any] = {
        "config.json": {
            "model_type": "llama",
            "vocab_size": vocab_size,
            "max_position_embeddings": 4096,
        },
        "tokenizer_config.json": {
            "chat_template": template,
            "bos_token": SPECIALS[1],
            "eos_token": SPECIALS[2],
            **said,
        },
        "generation_config.json": {"eos_token_id": [0, 2]},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "tokenizer.json").write_text(tiny_tokenizer_json())
    return folder


@contextmanager
def serving(folder: Path, name: str = "fake_vllm.py") -> Iterator[str]:
    """A fake model server in a process of its own; its URL."""
    script = Path(__file__).parent / name
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), str(VOCAB)],
        stdout=subprocess.PIPE,
        text=True,
        env={
            "PYTHONPATH": ":".join(
                str(Path(__file__).parents[2] / part)
                for part in ("tests", "src", "engines/vllm/src")
            ),
            "PATH": "/usr/bin:/bin",
        },
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def seen(url: str) -> list[dict[str, Any]]:
    """Every request so far, the probes' among them."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/seen", timeout=30) as answer:
        rows: list[dict[str, Any]] = json.load(answer)
    return rows


def switch(url: str, mode: str) -> None:
    """How the model ``switch`` behaves from now on."""
    where = url.removesuffix("/v1") + "/switch"
    request = urllib.request.Request(where, mode.encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30):
        pass
