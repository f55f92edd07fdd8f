"""From what is explained to what is booked: once, at most what it cost, whatever dies between."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.desk_rig import GRAIN_BYTES, Desk, exchange
from audit.role_rig import Died, Killer
from narrows.deploy import closing as closing_module
from narrows.deploy import poster as poster_module
from narrows.deploy.closing import close_behind_alarm
from narrows.deploy.poster import CreditPoster
from narrows.deploy.verdicts import read_book
from narrows.errors import BudgetError, InputError
from narrows.ledger.keys import load_private
from narrows.ledger.office.credits import apply_credit
from narrows.wire.verdict import (
    MAX_VIEW_LEASES,
    MIN_VERDICT_BYTES,
    RAISED,
    AuditVerdict,
    LedgerView,
    ViewReader,
    account_tag,
    alarm_words,
    parse_verdict,
    verdict_leases,
)

SIZE = 512
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()


def full_verdict() -> AuditVerdict:
    leases = tuple((bytes([n]) * 8, 1000 + n) for n in range(verdict_leases(SIZE)))
    tag = account_tag("answers")
    return AuditVerdict(7, RAISED, b"e" * 16, tag, 99, 4096, b"d" * 32, b"s" * 64, leases)


def test_a_verdict_has_one_size_and_comes_back() -> None:
    for verdict in (AuditVerdict(1, 0, b"e" * 16), full_verdict()):
        data = verdict.encode(SIZE, KEY.sign)
        assert len(data) == SIZE
        assert parse_verdict(data, SIZE, PUBLIC) == verdict
    assert verdict_leases(MIN_VERDICT_BYTES) >= 3
    assert "alarm" in alarm_words(RAISED)
    assert alarm_words(1 << 15) == ["an alarm of another version"]
    with pytest.raises(ValueError, match="leases in a verdict"):
        full_verdict().encode(SIZE - 12, KEY.sign)


def test_no_other_bytes_are_a_verdict() -> None:
    data, rng = full_verdict().encode(SIZE, KEY.sign), random.Random(5)
    for _ in range(300):
        changed = bytearray(data)
        changed[rng.randrange(SIZE)] ^= 1 << rng.randrange(8)
        with pytest.raises(InputError):
            parse_verdict(bytes(changed), SIZE, PUBLIC)
    for size in (0, 1, SIZE - 1, SIZE + 1, 1 << 20):
        with pytest.raises(InputError):
            parse_verdict(bytes(size), SIZE, PUBLIC)


def test_signed_nonsense_is_refused_too() -> None:
    """Whoever has the auditor's key writes what he likes; the parser takes its one form."""
    rng, taken = random.Random(6), 0
    good = full_verdict().encode(SIZE, KEY.sign)[:-64]
    for _ in range(500):
        body = bytearray(good if rng.random() < 0.5 else bytes(len(good)))
        body[:4] = b"nv1\n"
        for _ in range(rng.randrange(4)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        try:
            data = bytes(body) + KEY.sign(b"narrows verdict v1\n" + body)
            found = parse_verdict(data, SIZE, PUBLIC)
        except InputError:
            continue
        assert found.encode(SIZE, KEY.sign) == data
        taken += 1
    assert taken


def test_views_are_read_in_any_pieces_and_bounded() -> None:
    leases = tuple((bytes([n % 256]) * 16, n + 1) for n in range(MAX_VIEW_LEASES + 5))
    many = LedgerView(account_tag("answers"), 5, 6, leases)
    few = LedgerView(account_tag("b"), 1, 2)
    data = many.encode() + few.encode()
    found, reader, rng = [], ViewReader(), random.Random(7)
    while data:
        size = rng.randrange(1, 9000)
        found += reader.feed(data[:size])
        data = data[size:]
    assert found == [LedgerView(many.tag, 5, 6, leases[-MAX_VIEW_LEASES:]), few]
    for bad in (b"x" * 28, few.encode()[:24] + b"\xff" * 4):
        with pytest.raises(InputError):
            ViewReader().feed(bad)
    for _ in range(500):
        with suppress(InputError):
            ViewReader().feed(rng.randbytes(rng.randrange(200)))


def booked_right(desk: Desk) -> int:
    """What was credited: never more than 99 % of a lease, nothing of raw, and once."""
    net = desk.net()
    raw = desk.now().lineages["demo"]
    chain = net.auditors["gate"].chains["answers"]
    assert raw.spent_bytes - net.meter.spent_bytes == chain.total
    assert chain.total <= 0.99 * raw.spent_bytes
    return chain.total


def test_what_is_explained_is_booked_until_no_grain_is_left(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "state")
    role, journal = desk.auditor()
    poster = desk.poster()
    for _ in range(10):
        exchange(role, poster)
    totals = booked_right(desk)
    assert totals > 0
    assert totals % GRAIN_BYTES == 0
    book = read_book(desk.state)
    assert (book.credited_bytes, book.refused, book.alarms) == (totals, 0, 0)
    assert (book.lineage, book.day_credited_bytes) == ("demo", totals)
    assert book.day_spent_bytes == desk.now().lineages["demo"].spent_bytes
    assert 0 < book.credit_bytes <= totals
    assert book.day * 86_400 <= book.credit_s <= book.time_s
    explained = role._follower.auditor.credit_bytes
    assert explained - GRAIN_BYTES - 40 <= totals <= explained
    again = role.compose({})
    poster.take(again)
    with pytest.raises(InputError, match="has come before"):
        poster.take(again)
    journal.close()


def test_a_lie_about_the_ledger_gets_nothing_booked(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "state")
    role, journal = desk.auditor()
    poster = desk.poster()
    [true] = ViewReader().feed(poster.views())
    lies: list[dict[str, Any]] = [
        {"total": 512},
        {"position": 10**9},
        {"total": (1 << 64) - 1},
        {"leases": tuple((lease, 1 << 40) for lease, _ in true.leases)},
        {"leases": tuple((bytes(16), used) for _, used in true.leases)},
    ]
    for lie in lies[:3] + lies[4:]:
        values = {"tag": true.tag, "position": true.position, "total": true.total}
        view = LedgerView(**(values | {"leases": true.leases} | lie))
        poster.take(role.compose({view.tag: view}))
    assert "answers" not in desk.net().auditors["gate"].chains or booked_right(desk) == 0
    # More used than was: the tape's own sums and the ledger's rules bound it.
    view = LedgerView(true.tag, true.position, true.total, lies[3]["leases"])
    poster.take(role.compose({view.tag: view}))
    booked_right(desk)
    journal.close()


def test_an_unknown_outcome_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path / "state")
    role, journal = desk.auditor()

    def lost(*words: Any) -> int | None:
        apply_credit(*words)
        raise BudgetError("the witness went away")

    def never(*words: Any) -> int | None:
        raise BudgetError("the store went away")

    poster = desk.poster()
    monkeypatch.setattr(poster_module, "apply_credit", never)
    exchange(role, poster)
    assert poster.book.refused == 1
    assert booked_right(desk) == 0
    monkeypatch.setattr(poster_module, "apply_credit", lost)
    exchange(role, poster)
    assert poster.book.credited_bytes == booked_right(desk) > 0
    monkeypatch.setattr(poster_module, "apply_credit", apply_credit)
    for _ in range(10):
        exchange(role, poster)
    assert poster.book.credited_bytes == booked_right(desk)
    journal.close()


def test_behind_an_alarm_close_revokes_and_nothing_leaves(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "state")

    def close() -> None:
        key = load_private(desk.state / "ledger" / "operators" / "demo.key")
        with closing(desk.ledger()) as ledger:
            close_behind_alarm(ledger, "demo", "gate", key)

    desk.close = close
    role, journal = desk.auditor()
    role._follower.auditor.alarm.raised = True
    role._follower._show(0, "")
    poster = desk.poster()
    exchange(role, poster)
    assert poster.book.closed
    assert poster.book.credits == 0
    net = desk.net()
    assert not net.auditors
    assert net.meter.limits.lifetime_bytes == net.meter.committed_bytes()
    journal.close()


def test_a_closing_that_failed_is_tried_again(tmp_path: Path) -> None:
    """Once before anything, and once behind its first half, by another poster."""
    desk = Desk(tmp_path / "state")
    tries = []

    def close() -> None:
        tries.append(None)
        if len(tries) == 1:
            raise BudgetError("the ledger cannot be opened")
        with closing(desk.ledger()) as ledger:
            key = load_private(desk.state / "ledger" / "operators" / "demo.key")
            if len(tries) == 2:
                with patch.object(closing_module, "auditor_document", side_effect=BudgetError("x")):
                    close_behind_alarm(ledger, "demo", "gate", key)
            close_behind_alarm(ledger, "demo", "gate", key)

    desk.close = close
    role, journal = desk.auditor()
    role._follower.auditor.alarm.raised = True
    role._follower._show(0, "")
    poster = desk.poster()
    exchange(role, poster)
    assert desk.net().auditors
    exchange(role, poster)
    net = desk.net()
    assert net.auditors
    assert net.meter.limits.lifetime_bytes == net.meter.committed_bytes()
    exchange(role, desk.poster())
    assert not desk.net().auditors
    assert len(tries) == 3
    journal.close()


def test_stop_crediting_keeps_the_budget_as_it_is(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "state")
    role, journal = desk.auditor()
    role._follower.auditor.alarm.raised = True
    role._follower._show(0, "")
    poster = desk.poster()
    for _ in range(3):
        exchange(role, poster)
    assert poster.book.alarms & RAISED
    assert poster.book.credits == 0
    assert desk.net().auditors
    journal.close()


def killed_in_mid_credit(desk: Desk, kills: int, seed: int) -> int:
    """Auditor and poster die at random steps; what is booked is right after each."""
    rng, died, last = random.Random(seed), 0, 0
    apply = apply_credit
    while died < kills:
        killer = Killer(rng.randrange(8), durable=rng.random() < 0.5)
        at = rng.randrange(6)

        def apply_and_die(*words: Any, at: int = at) -> int | None:
            if at == 0:
                raise Died
            found = apply(*words)
            if at == 1:
                raise Died
            return found

        poster_module.apply_credit = apply_and_die
        try:
            role, journal = desk.auditor(commit=killer)
            poster = desk.poster()
            for _ in range(3):
                exchange(role, poster)
            journal.close()
        except Died:
            died += 1
            killer.bury()
        except sqlite3.ProgrammingError:
            killer.bury()
        finally:
            poster_module.apply_credit = apply
        if "answers" in desk.net().auditors["gate"].chains:
            total = booked_right(desk)
            assert total >= last
            last = total
    return last


def test_kills_in_mid_credit_credit_nothing_twice(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "state")
    killed_in_mid_credit(desk, 20, 1)
    finish(desk)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_a_thousand_kills_in_mid_credit(tmp_path: Path) -> None:
    for number in range(20):
        desk = Desk(tmp_path / f"state-{number}")
        killed_in_mid_credit(desk, 50, number)
        finish(desk)


def finish(desk: Desk) -> None:
    """Unharmed to its end: what is left is booked, and no more than the whole."""
    role, journal = desk.auditor()
    poster: CreditPoster = desk.poster()
    for _ in range(10):
        exchange(role, poster)
    assert booked_right(desk) <= role._follower.auditor.credit_bytes
    journal.close()
