"""The decoder's thread."""

from __future__ import annotations

import threading
import time

from narrows.coding.events import AnswerSpec
from narrows.edge.link.worker import DecodeWorker, Turn


class Slow:
    """A decoder that says how many of its kind are in ``step`` at once."""

    def __init__(self, inside: list[int], most: list[int]) -> None:
        self._inside, self._most = inside, most

    more = False
    position = 0

    def step(self, data: bytes) -> list[tuple[int, object]]:
        self._inside[0] += 1
        self._most[0] = max(self._most[0], self._inside[0])
        time.sleep(0.02)
        self._inside[0] -= 1
        return []

    def close(self) -> None:
        pass


def _most_at_once(turns: list[Turn]) -> int:
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
    turn = Turn()
    assert _most_at_once([turn] * 4) == 1
    assert _most_at_once([Turn() for _ in range(4)]) > 1


class Endless:
    """A decoder whose first bytes hold steps without end. Each step waits to be allowed."""

    more = True
    position = 0

    def __init__(self) -> None:
        self.steps = 0
        self.closed = threading.Event()
        self.stepped = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)

    def step(self, data: bytes) -> list[tuple[int, object]]:
        self.steps += 1
        self.stepped.release()
        assert self.allowed.acquire(timeout=60)
        return []

    def request(self, spec: AnswerSpec) -> int:
        return 7

    def close(self) -> None:
        self.closed.set()


def _worker(decoder: object, turn: Turn) -> DecodeWorker:
    return DecodeWorker(
        decoder,  # type: ignore[arg-type]
        turn,
        lambda call: call(),
        lambda events, size: None,
        lambda error: None,
    )


def test_a_closed_link_stops_behind_the_batch_in_work() -> None:
    endless = Endless()
    worker = _worker(endless, Turn())
    worker.feed(b"x")
    assert endless.stepped.acquire(timeout=60)
    worker.close()
    for _ in range(100):
        endless.allowed.release()
    assert endless.closed.wait(60)
    assert worker.join(60)
    assert endless.steps == 1


def test_the_model_is_lent_between_two_batches() -> None:
    endless, inside, turn = Endless(), [0], Turn()
    worker = _worker(endless, turn)
    worker.feed(b"x")
    assert endless.stepped.acquire(timeout=60)
    got = threading.Event()

    def ask() -> None:
        with turn:
            inside[0] = endless.steps
            got.set()

    asking = threading.Thread(target=ask)
    asking.start()
    while turn.waiting < 1:
        time.sleep(0.001)
    endless.allowed.release()
    assert got.wait(60)
    assert inside[0] == 1  # not one batch more, though the worker asked again at once
    worker.close()
    endless.allowed.release(2)
    asking.join(60)
    assert worker.join(60)


def test_a_closed_link_that_waits_for_the_model_does_not_use_it() -> None:
    endless, turn = Endless(), Turn()
    with turn:
        worker = _worker(endless, turn)
        worker.feed(b"x")
        while turn.waiting < 1:
            time.sleep(0.001)
        worker.close()
    assert worker.join(60)
    assert endless.steps == 0


def test_requests_are_numbered_between_two_batches() -> None:
    endless = Endless()
    worker = _worker(endless, Turn())
    worker.feed(b"x")
    assert endless.stepped.acquire(timeout=60)
    numbered = threading.Event()
    worker.request(lambda: AnswerSpec((1,), 1), lambda outcome: numbered.set())
    endless.allowed.release()
    assert numbered.wait(60)
    worker.close()
    endless.allowed.release(2)
    assert worker.join(60)


def test_it_says_how_long_its_oldest_bytes_have_waited() -> None:
    endless = Endless()
    worker = _worker(endless, Turn())
    assert worker.late_s(time.monotonic() + 5) == 0
    worker.feed(b"x" * 100)
    assert endless.stepped.acquire(timeout=60)
    for _ in range(3):  # steps that bring nothing do not make the bytes any younger
        endless.allowed.release()
        assert endless.stepped.acquire(timeout=60)
    assert worker.late_s(time.monotonic() + 20) >= 20
    worker.close()
    endless.allowed.release()
    assert worker.join(60)
