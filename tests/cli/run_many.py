"""Many ``narrows`` commands, each in a process of its own that has imported what it needs.

Standard input: a JSON list of argument lists; standard output: a JSON list of [exit code, standard
error, standard output]. Forked, since starting Python a hundred times would take minutes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
import traceback

from narrows.cli.main import main

PATIENCE_S = 20
IMPORTED = (
    "narrows.deploy.local",
    "narrows.deploy.files",
    "narrows.gate.main",
    "narrows.edge.serve",
    "narrows.enclave.models",
    "narrows.models.registry",
    "narrows.models.served",
    "narrows.training.corpus.transcripts",
    "narrows.plan.analysis",
    "narrows.measure.compare",
    "narrows.ledger.office.admin",
    "narrows.ledger.witness.server",
)


def one(words: list[str]) -> tuple[int, str, str]:
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as shown:
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(shown.fileno(), 1)
            os.dup2(said.fileno(), 2)
            signal.alarm(PATIENCE_S)
            os._exit(_code(words))
        _, status = os.waitpid(pid, 0)
        said.seek(0)
        shown.seek(0)
        texts = (file.read().decode("utf-8", "replace") for file in (said, shown))
        return os.waitstatus_to_exitcode(status), *texts


def _code(words: list[str]) -> int:
    code: object = 0
    try:
        main(words)
    except SystemExit as ended:
        code = ended.code
    except Exception:  # noqa: BLE001 - as the interpreter would end it
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    for module in IMPORTED if sys.argv[1:] == ["all"] else ():
        importlib.import_module(module)
    print(json.dumps([one(words) for words in json.load(sys.stdin)]))
