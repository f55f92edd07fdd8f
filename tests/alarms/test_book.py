"""The book: what an alarm does holds at once, over restarts, until a person acknowledges it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from narrows.alarms import book as book_module
from narrows.alarms.book import AlarmBook
from narrows.alarms.detector import EVERYONE, Firing
from narrows.alarms.noise import NoiseTest
from narrows.alarms.settings import AlarmSettings
from narrows.alarms.store import AlarmStore, FiledAlarm, alarms_path, read_alarms
from narrows.errors import InputError, NarrowsError


class Desk:
    """A book over a folder, a clock, and what was sent."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.now_s = 1e6
        self.sent: list[FiledAlarm] = []
        self.noise = NoiseTest()
        self.store = AlarmStore(folder)
        self.book = AlarmBook(
            self.store,
            AlarmSettings(**settings),  # type: ignore[arg-type]
            [self.noise],
            self.sent.append,
            lambda: self.now_s,
        )

    def turn(self) -> None:
        self.book.collect()
        assert self.book.flush()
        self.book.collect()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path, noise="refuse-key", uncoupled="close")
    yield desk
    desk.store.close()


def firing(subject: int = 1, kind: str = "noise", detector: str = "noise-key") -> Firing:
    return Firing(kind, detector, subject, 21.0, "words")


def test_an_alarm_refuses_its_key_until_it_is_acknowledged(desk: Desk, tmp_path: Path) -> None:
    desk.book.raise_(firing(1))
    assert desk.book.refuses(1) is not None
    assert desk.book.refuses(2) is None
    desk.turn()
    with closing(AlarmStore(tmp_path)) as other:
        assert other.acknowledge(None, "eve", 5) == [1]
    assert desk.book.refuses(1) is not None  # until it looks
    desk.turn()
    assert desk.book.refuses(1) is None
    (row,) = read_alarms(tmp_path)
    assert (row.acked_by, row.acked_s) == ("eve", 5)


def test_close_and_alarms_about_everyone_refuse_all(desk: Desk) -> None:
    desk.book.raise_(firing(EVERYONE))
    assert desk.book.refuses(77) is not None
    desk.book.raise_(firing(3, "uncoupled", "uncoupled"))
    assert desk.book.closed


def test_a_restart_keeps_alarm_policy_and_evidence(desk: Desk, tmp_path: Path) -> None:
    desk.book.raise_(firing(4))
    desk.noise._sums.observe(9, [3.0] * len(desk.noise.null.rates))
    desk.turn()
    again = Desk(tmp_path)  # whatever the settings say today
    assert again.book.refuses(4) is not None
    assert again.noise._sums.bits(9) == pytest.approx(desk.noise._sums.bits(9))
    again.store.close()


def test_further_firings_count_and_are_not_sent(desk: Desk, tmp_path: Path) -> None:
    for _ in range(5):
        desk.book.raise_(firing())
    desk.turn()
    assert len(desk.sent) == 1
    (row,) = read_alarms(tmp_path, open_only=True)
    assert row.count == 5


def test_an_alarm_that_comes_back_too_soon_is_filed_and_held_back(
    desk: Desk, tmp_path: Path
) -> None:
    for wait_s, sent in ((0.0, 1), (60.0, 1), (700.0, 2)):
        desk.now_s += wait_s
        desk.book.raise_(firing())
        desk.turn()
        assert len(desk.sent) == sent
        with closing(AlarmStore(tmp_path)) as other:
            other.acknowledge(None, "eve", 5)
        desk.turn()
    assert [bool(one.sent) for one in read_alarms(tmp_path)] == [False, True, False]


def test_a_flood_is_sent_at_a_bounded_rate_and_filed_in_bounded_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_module, "MAX_OPEN", 50)
    desk = Desk(tmp_path, noise="refuse-key", per_hour=10)
    for key in range(100_000):
        desk.book.raise_(firing(key))
    desk.turn()
    assert len(desk.sent) == 10
    assert len(read_alarms(tmp_path)) == 51
    assert desk.book.closed  # no room to say whom to refuse: fail closed
    assert "full" in {one.kind for one in read_alarms(tmp_path, open_only=True)}
    desk.store.close()


def test_a_disk_that_refuses_loses_nothing(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: AlarmStore, *_: object) -> None:
        raise sqlite3.OperationalError("disk full")

    desk.book.raise_(firing())
    with monkeypatch.context() as patch:
        patch.setattr(AlarmStore, "write", broken)
        assert not desk.book.flush()
    assert desk.book.refuses(1) is not None
    desk.turn()
    assert len(read_alarms(tmp_path)) == 1


def test_numbers_that_are_not_open_are_refused(desk: Desk, tmp_path: Path) -> None:
    desk.book.raise_(firing())
    desk.turn()
    with closing(AlarmStore(tmp_path)) as other:
        with pytest.raises(InputError, match="number 9"):
            other.acknowledge([1, 9], "eve", 5)
        assert other.acknowledge([1, 1], "eve", 5) == [1]
        with pytest.raises(InputError, match="number 1"):
            other.acknowledge([1], "eve", 5)


def test_a_damaged_file_is_said_to_be_one(tmp_path: Path) -> None:
    path = alarms_path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(NarrowsError, match=r"alarms\.db"):
        AlarmStore(tmp_path)
    with pytest.raises(NarrowsError, match=r"alarms\.db"):
        read_alarms(tmp_path)
    assert read_alarms(tmp_path / "elsewhere") == []


def test_an_alarm_that_was_filed_and_not_sent_is_sent_by_the_next_edge(tmp_path: Path) -> None:
    first = Desk(tmp_path)
    first.book.raise_(firing(7))
    first.turn()
    first.store.close()  # before the courier had said what became of it
    second = Desk(tmp_path)
    second.turn()
    second.turn()
    assert [one.subject for one in second.sent] == [7]
    second.store.close()


def test_an_acknowledgement_is_seen_although_the_first_look_failed(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.book.raise_(firing(1))
    desk.turn()
    with closing(AlarmStore(tmp_path)) as other:
        other.acknowledge(None, "eve", 5)
    with monkeypatch.context() as broken:
        broken.setattr(desk.store, "alarms", lambda open_only: _raise(sqlite3.OperationalError()))
        assert not desk.book.flush()
    desk.turn()
    assert desk.book.refuses(1) is None


def _raise(error: Exception) -> list[FiledAlarm]:
    raise error
