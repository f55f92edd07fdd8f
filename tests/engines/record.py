"""Record ``session`` on a running vLLM, at a URL that ends in /v1:

PYTHONPATH=tests:engines/vllm/src python tests/engines/record.py URL FOLDER [FILE]

FOLDER is what the server was started with, under the name ``m`` and at most 1,024 tokens.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
from pathlib import Path

from engines.recording import Recorder, Recording, listening
from engines.session import hold

FILE = Path(__file__).parent / "data" / "vllm-session.json.gz"


async def record(url: str, folder: Path) -> Recording:
    """The session on the server at ``url``, kept."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/version", timeout=60) as answer:
        version = json.load(answer)["version"]
    recorder = Recorder(url)
    async with listening(recorder.pass_on) as between:
        answers = await hold(between, folder)
    return Recording(version, recorder.exchanges, answers)


if __name__ == "__main__":
    kept = asyncio.run(record(sys.argv[1], Path(sys.argv[2])))
    kept.save(Path(sys.argv[3]) if len(sys.argv) > 3 else FILE)
