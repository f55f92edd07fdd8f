"""What an operator sets on a link, and what both ends must have alike.

The edge sends its options inward with the greeting, so that both ends hold the same; those
under ``limits`` are part of the wire format (both ends count by them), the others steer the
encoder alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from narrows.coding.events import NoiseFamily
from narrows.errors import InputError


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What a decoder bears. Integers; a stream that passes one of them is refused.

    ``max_open``: answers open at once. ``max_skip``: unopened answers that one may overtake.
    ``max_run``: items of one answer in one round. ``max_switches``: channel switches, bytes
    without a token and literal tokens per answer. ``text_base_bytes`` and
    ``text_bytes_per_token``: a text answer holds at most base + per_token x max_tokens bytes.
    ``steps_per_byte``, ``steps_saved``: model steps that each coded byte may ask for, and how
    many may be saved up. ``check_bytes``: a 32-bit check at least so often. ``max_cache_bytes``:
    memory of the weak model that open answers may hold together, as ``stream_bytes`` counts it.
    """

    max_open: int = 1024
    max_skip: int = 65536
    max_run: int = 256
    max_switches: int = 1024
    text_base_bytes: int = 4096
    text_bytes_per_token: int = 64
    steps_per_byte: int = 1024
    steps_saved: int = 32768
    check_bytes: int = 4096
    max_cache_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """``max_hold_ms``: how old a token may get before the link is pushed for it.
    ``round_hold_ms``: how long a token may wait for the other answers' tokens, so that a round
    is regular; more costs delay and saves bits where tokens come irregularly.
    ``text_hold_ms``: how long the end of a foreign text may wait for what follows it, so that
    words are not cut. Milliseconds, 0 .. 60000.
    ``noise``: the highest noise family that both ends compute (``events.NoiseFamily``); part of
    the wire format."""

    max_hold_ms: int = 200
    round_hold_ms: int = 40
    text_hold_ms: int = 25
    noise: int = NoiseFamily.KEYED
    limits: LinkLimits = field(default_factory=LinkLimits)

    def to_wire(self) -> dict[str, int]:
        """Flat integers for the greeting; ``from_wire`` is the inverse."""
        own = {f.name: int(getattr(self, f.name)) for f in fields(self) if f.name != "limits"}
        limits = {f.name: int(getattr(self.limits, f.name)) for f in fields(self.limits)}
        if self.limits.max_cache_bytes == LinkLimits().max_cache_bytes:
            del limits["max_cache_bytes"]  # enclaves from before it know no such option
        if self.noise == NoiseFamily.KEYED:
            del own["noise"]  # nor this one
        return own | limits

    @classmethod
    def from_wire(cls, values: Mapping[str, int]) -> LinkOptions:
        """Absent keys have their defaults. InputError for unknown keys and values."""
        names = [f.name for f in fields(cls) if f.name != "limits"]
        limit_names = [f.name for f in fields(LinkLimits)]
        problems = [f"{key}: no such link option" for key in values if key not in _HIGHEST]
        for key, value in values.items():
            if key in _HIGHEST and (type(value) is not int or not _check(key, value)):
                problems.append(f"{key}: an integer in {_LOWEST.get(key, 0)} .. {_HIGHEST[key]}")
        if problems:
            raise InputError("link options are wrong", problems=tuple(problems))
        limits = LinkLimits(**{name: values[name] for name in limit_names if name in values})
        return cls(**{name: values[name] for name in names if name in values}, limits=limits)


_HIGHEST = {
    "max_hold_ms": 60_000,
    "round_hold_ms": 60_000,
    "text_hold_ms": 60_000,
    "noise": max(NoiseFamily),
    "max_open": 65_536,
    "max_skip": 1 << 20,
    "max_run": 4096,
    "max_switches": 1 << 20,
    "text_base_bytes": 1 << 24,
    "text_bytes_per_token": 4096,
    "steps_per_byte": 1 << 20,
    "steps_saved": 1 << 24,
    "check_bytes": 1 << 20,
    "max_cache_bytes": 1 << 50,
}
_LOWEST = {
    "noise": 1,
    "max_open": 1,
    "max_run": 1,
    "max_switches": 8,
    "text_base_bytes": 1,
    "steps_per_byte": 16,
    "steps_saved": 1024,
    "check_bytes": 64,
}


def _check(key: str, value: int) -> bool:
    return _LOWEST.get(key, 0) <= value <= _HIGHEST[key]
