"""An edge as a process of its own, with the stand-in codec.

Arguments: STATE LISTEN_PORT GATE_PORT [CERT KEY].
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from edge.harness import MODEL
from edge.standin import FlatModel, LineDecoder
from narrows.edge.config import EdgeConfig, HttpsFiles
from narrows.edge.serve import serve
from narrows.errors import NarrowsError


def main() -> None:
    state, listen, gate, *pair = sys.argv[1:]
    ports = {"listen_port": int(listen), "gate_port": int(gate)}
    https = HttpsFiles(*map(Path, pair)) if pair else None
    config = EdgeConfig(**ports, model_name=MODEL, link_wait_s=30.0, probe=False, https=https)

    def ready(port: int) -> None:
        print(json.dumps({"ready": True, "port": port}), flush=True)

    models = [FlatModel()]
    try:
        asyncio.run(serve(config, Path(state), models, ready, lambda model, options: LineDecoder()))
    except NarrowsError as error:
        sys.exit(f"narrows: {error}")


if __name__ == "__main__":
    main()
