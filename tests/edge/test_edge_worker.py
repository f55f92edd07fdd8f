"""The decoder's thread."""

from __future__ import annotations

import threading
import time

from narrows.edge.link.worker import DecodeWorker


class Slow:
    """A decoder that says how many of its kind are in ``feed`` at once."""

    def __init__(self, inside: list[int], most: list[int]) -> None:
        self._inside, self._most = inside, most

    def feed(self, data: bytes) -> list[tuple[int, object]]:
        self._inside[0] += 1
        self._most[0] = max(self._most[0], self._inside[0])
        time.sleep(0.02)
        self._inside[0] -= 1
        return []

    def close(self) -> None:
        pass


def _most_at_once(turns: list[threading.Lock]) -> int:
    inside, most, done = [0], [0], [threading.Event() for _ in turns]
    workers = [
        DecodeWorker(
            Slow(inside, most),  # type: ignore[arg-type]
            turn,
            lambda call: call(),
            lambda events, size, end=end: end.set(),  # type: ignore[misc]
            lambda error: None,
        )
        for turn, end in zip(turns, done, strict=True)
    ]
    for worker in workers:
        worker.feed(b"x")
    assert all(end.wait(30) for end in done)
    for worker in workers:
        worker.close()
        assert worker.join(30)
    return most[0]


def test_decoders_of_one_model_take_turns() -> None:
    """The arrays that a model returns hold until its next call, whoever makes it."""
    turn = threading.Lock()
    assert _most_at_once([turn] * 4) == 1
    assert _most_at_once([threading.Lock() for _ in range(4)]) > 1
