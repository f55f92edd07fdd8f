"""Sizes as people write them: ``5000000``, ``10MB``, ``5 KB``, ``1.5GB``, ``64KiB``.

One reader for every option and every key of a file, so that none takes what another refuses.
Exact integers: a size that is no whole number of bytes is refused, never rounded. A small ``b`` is
a bit, and bits are refused: who mixes them up sets a budget eight times too large.
"""

from __future__ import annotations

import re

from narrows.errors import InputError

MAX_SIZE_BYTES = (1 << 63) - 1
MAX_CHARS = 40
EXAMPLES = "5000000, 10MB, 64KiB"

_UNITS = {"": 1, "B": 1, "byte": 1, "bytes": 1}
_UNITS |= {f"{letter}B": 1000 ** (n + 1) for n, letter in enumerate("KMGTP")} | {"kB": 1000}
_UNITS |= {f"{letter}iB": 1024 ** (n + 1) for n, letter in enumerate("KMGTP")}
_SIZE = re.compile(r"([0-9][0-9_]*)(?:\.([0-9]+))?\s*([A-Za-z/]*)", re.ASCII)
_BITS = re.compile(r"[kKmMgGtTpP]?i?(b|bps|bits?|bits?/s|b/s)", re.ASCII)


def size_bytes(text: str, where: str, least: int = 0) -> int:
    """``text`` in bytes, ``least``..2^63-1. ``where``: the option or key, for the error. Raises
    InputError."""
    match = _SIZE.fullmatch(text.strip()) if len(text) <= MAX_CHARS else None
    if match is None:
        raise InputError(f"{where}: {text[:MAX_CHARS]!r} is no size", f"write it as {EXAMPLES}")
    whole, part, unit = match.group(1).replace("_", ""), match.group(2) or "", match.group(3)
    if _BITS.fullmatch(unit):
        raise InputError(
            f"{where}: {unit!r} in {text!r} counts bits", f"write bytes, as in {EXAMPLES}"
        )
    if unit not in _UNITS:
        known = " ".join(unit for unit in _UNITS if unit)
        raise InputError(f"{where}: {text!r} has no unit of {known}", f"write it as {EXAMPLES}")
    scaled, rest = divmod(int(whole + part) * _UNITS[unit], int(10 ** len(part)))
    if rest:
        raise InputError(f"{where}: {text!r} is no whole number of bytes")
    if not least <= scaled <= MAX_SIZE_BYTES:
        raise InputError(f"{where}: {text!r} is outside {least}..{MAX_SIZE_BYTES} bytes")
    return scaled
