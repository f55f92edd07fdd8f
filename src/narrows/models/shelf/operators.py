"""Public keys of the operators whose weak models are loaded, as configured."""

from __future__ import annotations

import re
from collections.abc import Iterable

from narrows.errors import InputError
from narrows.publickey import key_flaw

_KEY = re.compile(r"[0-9a-f]{64}")


def key_problems(texts: Iterable[str]) -> list[str]:
    """What is wrong with a configuration's ``operators``."""
    problems = []
    for text in texts:
        if not _KEY.fullmatch(text):
            problems.append(f"operators: {text[:80]!r} is no public key: 64 lower-case hex digits")
        elif flaw := key_flaw(bytes.fromhex(text)):
            problems.append(f"operators: the key {text} is refused: {flaw}")
    return problems


def operator_keys(texts: Iterable[str]) -> frozenset[bytes]:
    """Public keys as configured. InputError for what is none."""
    listed = list(texts)
    if problems := key_problems(listed):
        raise InputError("the operators are wrong", problems=tuple(problems))
    return frozenset(map(bytes.fromhex, listed))
