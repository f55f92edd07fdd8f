"""Delay and signalling on a virtual clock: what the schedule promises, without a model."""

from __future__ import annotations

import itertools
import random
from collections import deque

from narrows.coding.events import AnswerSpec, Coding, Tokens
from narrows.coding.link.answer import Item, Kind
from narrows.coding.link.encoder import LinkEncoder
from narrows.coding.link.options import LinkOptions
from narrows.coding.link.rounds import REST
from narrows.coding.link.schedule import Schedule
from narrows.measure.replay import ReplayCode, ReplayModel, replayed
from narrows.measure.run import Run, RunResult, Traffic

RND = random.Random(9)
COSTS = [
    [RND.expovariate(1 / 2.8) for _ in range(RND.randrange(100, 400))] + [1.0] for _ in range(40)
]


def live(
    options: LinkOptions, traffic: Traffic, limit_ms: float, coding: Coding = Coding.PLAIN
) -> RunResult:
    models = (ReplayModel(COSTS), ReplayModel(COSTS))
    run = Run(models, options, replayed(COSTS, coding), traffic, ReplayCode)
    return run.go(itertools.cycle(range(len(COSTS))), False, limit_ms=limit_ms)


def test_regular_streams_cost_next_to_nothing_to_interleave() -> None:
    result = live(LinkOptions(), Traffic(64), 6000.0, Coding.TEXT)
    assert result.bits["signals"] / result.pieces < 0.06
    assert result.delay_ms(0.99) <= 60.0
    assert "pushes" not in result.bits


def test_irregular_streams_cost_less_the_longer_they_may_wait() -> None:
    costs = [
        live(LinkOptions(round_hold_ms=hold), Traffic(32, exponential=True), 4000.0).bits["signals"]
        for hold in (20, 80, 250)
    ]
    assert costs[0] > 1.5 * costs[1] > 2 * costs[2]


def test_no_piece_is_older_than_the_hold_when_it_is_decided() -> None:
    for hold_ms in (50, 200):
        result = live(LinkOptions(max_hold_ms=hold_ms), Traffic(1), 20_000.0)
        assert max(result.delays_ms) <= hold_ms + 1e-6
        assert result.bits["pushes"] > 0


def test_a_finished_answer_on_a_quiet_link_costs_two_per_cent_and_four_bytes() -> None:
    for seed in range(20):
        rnd = random.Random(seed)
        costs = [[rnd.expovariate(1 / 2.8) for _ in range(300)] + [1.0]]
        models = (ReplayModel(costs), ReplayModel(costs))
        run = Run(models, LinkOptions(), replayed(costs), Traffic(1, burst=True), ReplayCode)
        result = run.go(iter((0,)), True)
        assert result.link_bytes <= 1.02 * result.ideal_bits / 8 + 4


class Waiting:
    """An open answer as the schedule sees it."""

    def __init__(self, *items: Item) -> None:
        self.queue, self.complete, self.expected = deque(items), False, True


def tokens(count: int, came_ms: float = 100.0) -> list[Item]:
    return [Item(Kind.TOKEN, came_ms=came_ms) for _ in range(count)]


def test_what_the_tokeniser_held_back_does_not_use_up_the_patience_of_a_round() -> None:
    """Text whose age counted from its last byte was an exception as soon as it was released."""
    schedule = Schedule(40.0, 256)
    text = Waiting(Item(Kind.TOKEN, came_ms=100.0, held_ms=45.0))
    token = Waiting(Item(Kind.TOKEN, came_ms=100.0))
    assert schedule.due_ms([text, Waiting()]) == 185.0
    assert schedule.due_ms([token, Waiting()]) == 140.0
    assert schedule.due_ms([text, token]) == 100.0, "at once where all are there"
    assert schedule.due_ms([text]) == 100.0


def test_the_rest_of_an_answer_is_an_exception_only_where_it_is_long_or_new() -> None:
    schedule = Schedule(40.0, 256)
    going = Waiting(*tokens(7))
    going.complete = True
    assert schedule.plan([Waiting(*tokens(1)), going], 100.0) == [1, 1]
    going.queue.extend(tokens(1))
    assert schedule.plan([Waiting(*tokens(1)), going], 100.0) == [1, REST]
    new = Waiting(*tokens(4))
    new.complete, new.expected = True, False
    assert schedule.plan([Waiting(*tokens(1)), new], 100.0) == [1, REST], "a short answer"
    going.queue.extend(tokens(300))
    assert schedule.plan([Waiting(*tokens(1)), going], 100.0) == [1, 256], "as the format bounds"


def test_the_rest_of_an_answer_does_not_wait_for_ever_behind_a_stalled_one() -> None:
    """Rounds at the pace of the hold: seven items take no longer than they may."""
    schedule, now_ms, passed = Schedule(40.0, 256), 100.0, 0
    going = Waiting(*tokens(7))
    going.complete = True
    while going.queue:
        answers = [Waiting(), going]
        due_ms = schedule.due_ms(answers)
        assert due_ms is not None
        now_ms = max(now_ms, due_ms)
        counts = schedule.plan(answers, now_ms)
        assert counts is not None
        for _ in range(counts[1]):
            going.queue.popleft()
            passed += 1
    assert (passed, now_ms) == (7, 180.0)


def test_while_rounds_are_regular_an_item_may_be_20_ms_older() -> None:
    schedule = Schedule(40.0, 256)
    for came_ms, count in ((100.0, 1), (99.0, 2)):
        stock = Waiting(*tokens(2, came_ms))
        assert schedule.plan([stock, Waiting(*tokens(1, 150.0))], 160.0 - 1e-9) == [count, 1]


def test_answers_that_bring_more_together_cost_little_more_than_one() -> None:
    """One late answer holds a round up, and each of the others then has two items."""
    assert signals_of_pairs(16) < 1.5 * signals_of_pairs(1)


def signals_of_pairs(pairs: int) -> float:
    lines = [[2.0] * 300 for _ in range(17)]
    encoder = LinkEncoder(ReplayModel(lines), LinkOptions(), ReplayCode)
    for row in range(17):
        encoder.open(encoder.request(AnswerSpec((row,), 1 << 20)), Coding.PLAIN)
    for start_ms in range(0, 20_000, 100):
        held_up = start_ms % 1000 == 0
        for number in range(16):
            encoder.put(number, Tokens((0,) * (2 if held_up and number < pairs else 1)))
        encoder.poll(start_ms)
        encoder.put(16, Tokens((0,)))
        encoder.poll(start_ms + (70.0 if held_up else 10.0))
    return encoder.stats.bits["signals"]
