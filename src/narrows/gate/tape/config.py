"""What a gate is told about its tape: the table ``[gate.tape]``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from narrows.config import Range, out_of_range
from narrows.wire.spool.file import seal_key_flaw
from narrows.wire.spool.writer import FILE_BYTES, MIN_FILE_BYTES, MIN_FILES

_KEY = re.compile("[0-9a-f]{64}")
_TAPE_NAME = re.compile("[a-z0-9-]{1,32}")
FILES = 16
MAX_SPOOL_BYTES = 1 << 40
MAX_AGE_S = 366 * 86400


@dataclass(frozen=True, slots=True)
class TapeConfig:
    """``folder``: the spool's. ``auditor_key``: the X25519 key that it is sealed to, 64 hex digits.
    ``ports``: names of the ports that are copied; empty: all. ``max_bytes``, ``max_age_s``: what
    the spool holds at most, and for how long at most. ``shown``: other users of this machine may
    read the files, which are sealed; for an auditor that is one of them."""

    folder: Path
    auditor_key: str
    ports: tuple[str, ...] = ()
    max_bytes: int = 2_000_000_000
    max_age_s: float = 7 * 86400
    shown: bool = False

    @property
    def file_bytes(self) -> int:
        return max(MIN_FILE_BYTES, min(FILE_BYTES, self.max_bytes // FILES))


def tape_problems(tape: TapeConfig, ports: list[str]) -> list[str]:
    """Why it cannot be so, at a gate with these ports."""
    ranges: list[Range] = [
        ("tape.max_bytes", tape.max_bytes, MIN_FILES * MIN_FILE_BYTES, MAX_SPOOL_BYTES),
        ("tape.max_age_s", tape.max_age_s, 60, MAX_AGE_S),
    ]
    problems = out_of_range(ranges)
    if not _KEY.fullmatch(tape.auditor_key):
        problems.append("tape.auditor_key must be 64 lower-case hex digits")
    elif flaw := seal_key_flaw(bytes.fromhex(tape.auditor_key)):
        problems.append(f"tape.auditor_key is refused: {flaw}")
    for name in tape.ports:
        if name not in ports:
            problems.append(f"tape.ports names {name!r}, and no port is called so")
    for name in tape.ports or ports:
        if name in ports and not _TAPE_NAME.fullmatch(name):
            problems.append(f"tape.ports: {name!r} must be in lower case to be on a tape")
    return problems
