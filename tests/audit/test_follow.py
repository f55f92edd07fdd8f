"""The auditor's role over kills: no coin drawn again, no segment scored twice, nothing twice."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from audit.role_rig import (
    CountingScorer,
    Died,
    Killer,
    MemorySpool,
    chapter,
    chapters,
    follower,
    nonce_of,
    paid_by_lease,
    run_out,
)
from narrows.audit.auditor import Rules
from narrows.audit.role.follow import TapeFollower
from narrows.audit.role.journal import STOPPED
from narrows.audit.role.state import auditor_state
from narrows.errors import InputError
from narrows.wire.verdict import HALTED, NO_SPOOL

HALF = Rules(share=0.5, delta=0.5)


def what(one: TapeFollower) -> str:
    """All that may be credited, and all that it rests on."""
    state = auditor_state(one.auditor)
    leases = {name: sorted(rows.items()) for name, rows in one.leases.explained().items()}
    return json.dumps([state, str(leases), one.now.read, one.now.position])


def test_chapters_are_followed_to_their_ends(tmp_path: Path) -> None:
    one, journal = follower(MemorySpool(chapters()), tmp_path / "j.db")
    run_out(one)
    auditor, leases = one.auditor, one.now.leases["answers"]
    assert auditor.tally.segments >= 8
    assert not auditor.tally.not_scored
    assert one.now.read == sum(len(tape) for tape in chapters().values())
    assert not one.now.alarms
    credited = sum(explained for explained, _ in leases.values())
    assert 0.9 * auditor.credit_bytes - len(leases) <= credited <= auditor.credit_bytes
    paid = paid_by_lease()
    assert all(size <= paid[lease] == was_paid for lease, (size, was_paid) in leases.items())
    journal.close()


@pytest.mark.parametrize("rules", [Rules(), HALF])
def test_killed_at_every_step_of_the_journal_nothing_differs(tmp_path: Path, rules: Rules) -> None:
    """Each transaction in turn is the last one: before it is durable, and behind."""
    scorer = CountingScorer()
    one, journal = follower(MemorySpool(chapters()), tmp_path / "whole.db", rules, scorer)
    run_out(one)
    journal.close()
    expected = what(one)
    path = tmp_path / "killed.db"
    scorer, kills = CountingScorer(), 0
    for number in itertools.count():
        # One transaction further each time; the last of them is durable every other time.
        killer = Killer(1 + number % 2, durable=number % 2 == 0)
        try:
            one, journal = follower(MemorySpool(chapters()), path, rules, scorer, killer)
            run_out(one)
            break
        except Died:
            kills += 1
            killer.bury()
    assert kills > 10
    known = one.auditor.tally
    # A kill between a coin and its outcome costs that segment its credit, and nothing else.
    assert set(known.not_scored) <= {STOPPED}
    stopped = sum(known.not_scored.values())
    whole = json.loads(expected)
    assert known.segments == whole[0]["tally"]["segments"]
    assert known.drawn == whole[0]["tally"]["drawn"]
    assert one.auditor.credit_q16 <= whole[0]["sums"]["credit_q16"]
    assert max(scorer.scored.values(), default=0) <= 1 + (stopped > 0)
    journal.close()


def test_a_kill_while_scoring_costs_that_segment_and_its_coin_stands(tmp_path: Path) -> None:
    scorer = CountingScorer()
    scorer.die_at = 2
    path = tmp_path / "j.db"
    one, journal = follower(MemorySpool(chapters()), path, HALF, scorer)
    with pytest.raises(Died):
        run_out(one)
    journal.close()
    scorer.die_at = -1
    again, journal = follower(MemorySpool(chapters()), path, HALF, scorer)
    run_out(again)
    journal.close()
    assert again.auditor.tally.not_scored == {STOPPED: 1}
    assert max(scorer.scored.values()) == 1
    third, journal = follower(MemorySpool(chapters()), path, HALF, scorer)
    run_out(third)
    assert what(third) == what(again)
    assert max(scorer.scored.values()) == 1
    journal.close()


def test_a_restart_between_any_two_reads_changes_nothing(tmp_path: Path) -> None:
    one, journal = follower(MemorySpool(chapters()), tmp_path / "whole.db")
    run_out(one)
    journal.close()
    spool, scorer, path = MemorySpool(chapters()), CountingScorer(), tmp_path / "j.db"
    for _ in range(100):
        two, journal = follower(spool, path, scorer=scorer)
        more = two.step() and two.step() and two.step() and two.step()
        while (more and two.auditor.tally.segments == 0) or journal.behind:
            more = two.step()
        for _ in range(3):
            more = more and two.step()
        journal.close()
        if not more:
            break
    assert what(two) == what(one)
    assert max(scorer.scored.values()) == 1


def growing(nonce: bytes) -> MemorySpool:
    """Nine tenths of one chapter."""
    spool = MemorySpool(chapters(1))
    spool.over.clear()
    spool.known[nonce] = int(0.9 * spool.known[nonce])
    return spool


def test_another_tape_than_the_one_that_was_audited_ends_all_credit(tmp_path: Path) -> None:
    path, nonce = tmp_path / "j.db", nonce_of(0)
    spool = growing(nonce)
    one, journal = follower(spool, path)
    run_out(one)
    assert journal.behind == 0
    assert one.now.leases["answers"]
    journal.close()
    # The same boot nonce, other answers.
    other = chapter(1)
    changed = other[:15] + nonce + other[15 + 32 :]
    two, journal = follower(MemorySpool({nonce: changed}), path)
    run_out(two)
    assert two.now.alarms & HALTED
    assert not two.now.leases
    journal.close()


def test_a_tape_that_lost_its_end_is_heard(tmp_path: Path) -> None:
    path, nonce = tmp_path / "j.db", nonce_of(0)
    spool = growing(nonce)
    one, journal = follower(spool, path)
    run_out(one)
    journal.close()
    short = MemorySpool({nonce: chapter(0)[: spool.known[nonce] // 2]})
    two, journal = follower(short, path)
    run_out(two)
    assert two.now.alarms & HALTED
    journal.close()


def test_hostile_tapes_are_states_and_explain_no_more_than_was_paid(tmp_path: Path) -> None:
    rng, good = random.Random(8), chapter(0)
    for number in range(12):
        bad = bytearray(good)
        for _ in range(1 + number % 3):
            bad[rng.randrange(47, len(bad))] = rng.randrange(256)
        tape = bytes(bad)[: rng.randrange(len(bad)) if number % 4 == 0 else len(bad)]
        spool = MemorySpool({nonce_of(0): tape, nonce_of(1): chapter(1)})
        one, journal = follower(spool, tmp_path / f"{number}.db")
        run_out(one)
        leases = one.now.leases["answers"]
        assert all(explained <= paid for explained, paid in leases.values())
        assert journal.is_done(nonce_of(0))
        assert one.auditor.replay.reader.boot_nonce == nonce_of(1)
        journal.close()


def test_a_tape_under_another_chapters_name_is_not_audited(tmp_path: Path) -> None:
    one, journal = follower(MemorySpool({nonce_of(0): chapter(1)}), tmp_path / "j.db")
    run_out(one)
    assert one.auditor.tally.segments == 0
    assert journal.is_done(nonce_of(0))
    journal.close()


def test_a_spool_that_was_cut_is_a_state_and_the_next_chapter_goes_on(tmp_path: Path) -> None:
    spool = MemorySpool(chapters(1))
    spool.removed[nonce_of(0)] = 100
    one, journal = follower(spool, tmp_path / "j.db")
    run_out(one)
    assert one.now.alarms & NO_SPOOL
    assert one.now.why == "removed"
    spool.tapes[nonce_of(1)] = chapter(1)
    spool.known[nonce_of(1)] = len(chapter(1))
    run_out(one)
    assert one.now.read == len(chapter(0)) + len(chapter(1))
    assert one.now.leases["answers"]
    journal.close()


def test_what_was_pruned_behind_a_rest_is_not_missed(tmp_path: Path) -> None:
    path, spool = tmp_path / "j.db", MemorySpool(chapters())
    one, journal = follower(spool, path)
    while one.now.position < len(chapter(0)):
        assert one.step()
    journal.close()
    spool.removed[nonce_of(0)] = len(chapter(0))
    two, journal = follower(spool, path)
    run_out(two)
    assert not two.now.alarms
    whole, second = follower(MemorySpool(chapters()), tmp_path / "whole.db")
    run_out(whole)
    assert what(two) == what(whole)
    journal.close()
    second.close()


def test_a_journal_is_of_one_auditor_and_one_process(tmp_path: Path) -> None:
    _, journal = follower(MemorySpool({}), tmp_path / "j.db")
    with pytest.raises(InputError, match="cannot use the auditor"):
        follower(MemorySpool({}), tmp_path / "j.db")
    journal.close()
    with pytest.raises(InputError, match="other terms"):
        follower(MemorySpool({}), tmp_path / "j.db", replace(HALF, delta=0.1))
