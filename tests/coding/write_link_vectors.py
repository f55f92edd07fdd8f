"""Write data/link_vectors.json anew: each vector's script run, its bytes and events recorded.

    PYTHONPATH=tests python -m coding.write_link_vectors

Needed where the format changes, or for a script that is added to SCRIPTS; whose bytes have
changed is printed. ``test_link_mutants.py`` says what the vectors have to tell apart.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from typing import Any

from coding.link_scripts import Vector, digest, gathered, replay
from coding.test_link_vectors import PATH, VECTORS
from narrows.coding.link.ends import EncoderPort
from narrows.coding.range.kernels import LOW, RANGE

MOST_EVENTS = 500
STEERED = 0xEE
HELD = [("2e", 3), ("2e", 2)]
X = ["text", "78"]


def short(coding: str, size: int, usage: list[int], end: list[str], *more: Any) -> list[Any]:
    """An answer from its request to its end."""
    piece = ["text", "78" * size] if coding == "TEXT" else ["tokens", *[0] * size]
    puts = [*more, piece, ["usage", *usage], end]
    puts = [what for what in puts if what != ["usage"]]
    return [
        ["request", 0, 100],
        ["open", -1, coding],
        *(["put", -1, what] for what in puts),
        ["later", 1],
        ["later", 300],
    ]


MANY_ANSWERS = [
    ["repeat", 270, [
        *short("TEXT", 1, [5, 2], ["finished", "STOP"]),
        *short("PLAIN", 1, [9, 2], ["finished", "LENGTH"]),
    ]],
    ["repeat", 6, [
        *short("TEXT", 2, [5, 4], ["finished", "LENGTH"], ["switch", "TOOL_NAME"]),
        *short("PLAIN", 1, [7, 1], ["finished", "STOP"], ["switch", "REASONING"]),
        *short("TEXT", 1, [4, 2], ["finished", "STOP"], ["switch", "TOOL_NAME"]),
        *short("PLAIN", 2, [], ["finished", "TOOL_CALLS"], ["switch", "TOOL_ARGUMENTS"]),
        *short("PLAIN", 2, [9, 2], ["failed", "UPSTREAM_BROKE"], ["switch", "REASONING"]),
    ]],
    ["repeat", 530, [
        ["request", 0, 100],
        ["open", -1, "PLAIN"],
        ["put", -1, ["failed", "OVERLOADED"]],
        ["later", 300],
    ]],
]  # fmt: skip

LONG_ANSWER = [
    ["request", 0, 10_000],
    ["open", 0, "PLAIN"],
    ["put", 0, ["tokens", 0]],
    ["poll", 0.0],
    ["repeat", 85, [["put", 0, ["tokens", *[0] * 100]]]],
    ["put", 0, ["finished", "STOP"]],
    ["poll", 20.0],
    ["repeat", 3, [["later", 1]]],
    ["poll", 400.0],
]  # fmt: skip

BOTH = [["put", 0, X], ["put", 1, ["tokens", 0]], ["later", 20]]
FIRST = [["put", 0, X], ["later", 100]]
SECOND = [["put", 1, ["tokens", 0]], ["later", 100]]


def exceptions(*held: str) -> list[Any]:
    """``held``: bytes without a token, chosen so that a carry waits behind them."""
    waits = [
        step
        for data in held
        for step in (*BOTH, *BOTH, ["put", 0, ["text", data]], ["later", 1], ["later", 69])
    ]
    return [
        ["request", 0, 1000],
        ["request", 1, 1000],
        ["request", 2, 5],
        ["request", 3, 5],
        ["open", 0, "TEXT"],
        ["open", 1, "PLAIN"],
        ["repeat", 140, BOTH],
        ["later", 3000],
        ["repeat", 3, [["repeat", 12, FIRST], *SECOND, ["repeat", 8, SECOND], *BOTH]],
        ["put", 1, ["tokens", 0, 2, 0, 0, 2]],
        ["put", 0, ["text", "7800787801787802"]],
        ["later", 100],
        *BOTH,
        ["put", 1, ["switch", "TOOL_NAME"]],
        ["put", 1, ["tokens", 0]],
        ["put", 1, ["switch", "TOOL_ARGUMENTS"]],
        ["put", 0, ["switch", "REASONING"]],
        ["later", 100],
        ["repeat", 2, [
            ["put", 1, ["switch", "TOOL_NAME"]],
            ["put", 1, ["switch", "CONTENT"]],
            ["put", 0, ["switch", "CONTENT"]],
            ["put", 0, ["switch", "REASONING"]],
            ["later", 100],
        ]],
        ["repeat", 24, [["put", 0, ["text", "0102030405060708"]], ["later", 100]]],
        *waits,
        ["repeat", 2, BOTH],
        ["later", 3000],
        ["open", 2, "TEXT"],
        ["put", 2, ["text", "78" * 44 + "00"]],
        ["put", 2, ["switch", "REASONING"]],
        ["open", 3, "PLAIN"],
        ["put", 3, ["tokens", 0, 0, 2, 0, 0]],
        ["put", 3, ["switch", "REASONING"]],
        ["later", 100],
        ["put", 2, ["finished", "STOP"]],
        ["put", 3, ["finished", "LENGTH"]],
        ["put", 1, ["finished", "TOOL_CALLS"]],
        ["later", 100],
        ["put", 0, ["finished", "CONTENT_FILTER"]],
        ["later", 5000],
    ]  # fmt: skip


NOISES = [
    ["repeat", 7, [
        step
        for family, start in (
            (3, 0), (3, 12), (4, 12), (1, 0), (3, 40), (4, 40), (4, (1 << 30) - 1)
        )
        for step in (
            ["request", 0, 100],
            ["open", -1, "COUPLED", family, start],
            ["put", -1, ["tokens", 0]],
            ["put", -1, ["finished", "LENGTH"]],
            ["later", 300],
        )
    ]],
]  # fmt: skip

CYCLE = [0.5, 0.02, 1.5, 3.25, 0.1]
SCRIPTS: list[Vector] = [
    {
        "name": "many short answers",
        "options": {"check_bytes": 64},
        "costs": [[1.0, 0.5, 2.0]],
        "steps": MANY_ANSWERS,
    },
    {
        "name": "noises",
        "options": {"noise": 4},
        "costs": [[1.0, 0.5, 2.0]],
        "steps": NOISES,
    },
    {
        "name": "one long answer",
        "options": {"max_run": 8},
        "costs": [[[0.001, 8501], 0.5]],
        "steps": LONG_ANSWER,
    },
    {
        "name": "exceptions",
        "options": {
            "max_hold_ms": 2000,
            "check_bytes": 64,
            "text_base_bytes": 40,
            "text_bytes_per_token": 1,
        },
        "costs": [[[0.02, 140], *CYCLE * 60, 1.0]] * 2 + [[*CYCLE * 10, 1.0]] * 2,
        "steps": exceptions(),
    },
]


def held_bytes(before: list[str], free: str, steered: int) -> str:
    """``free`` and so many bytes behind it, all without a token, that keep a carry waiting: the
    value of each is the one whose share holds the border at which the first one's byte changes.
    ``before``: those put earlier."""
    chosen: list[int] = []
    raw = EncoderPort.raw

    def steer(self: EncoderPort, bits: int, value: int | None) -> Generator[None, None, int]:
        if bits == 8 and value == STEERED:
            low, size = int(self.coder.state[LOW]), int(self.coder.state[RANGE])
            border = -low % (1 << 64 if chosen else 1 << 56)
            value = min(border // (size >> 32 << 24), 255)
            chosen.append(value)
        return (yield from raw(self, bits, value))

    EncoderPort.raw = steer  # type: ignore[method-assign]
    try:
        held = free + f"{STEERED:02x}" * steered
        replay(SCRIPTS[-1] | {"steps": exceptions(*before, held)})
    except AssertionError:
        pass
    finally:
        EncoderPort.raw = raw  # type: ignore[method-assign]
    return free + bytes(chosen).hex()


def main() -> int:
    held: list[str] = []
    for free, steered in HELD:
        held.append(held_bytes(held, free, steered))
    SCRIPTS[-1]["steps"] = exceptions(*held)
    before = {vector["name"]: vector for vector in VECTORS}
    for script in SCRIPTS:
        before[script["name"]] = before.get(script["name"], {}) | script
    for name, vector in before.items():
        sent, events = replay(vector)
        if vector.get("bytes", "") != sent.hex():
            print(f"{name}: {len(sent)} other bytes", file=sys.stderr)
        vector["bytes"] = sent.hex()
        if len(gathered(events)) <= MOST_EVENTS:
            vector["events"] = gathered(events)
        else:
            vector["events_sha256"] = digest(events)
    PATH.write_text(json.dumps(list(before.values()), separators=(",", ":")) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
