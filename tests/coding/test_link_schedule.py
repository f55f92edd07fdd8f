"""Delay and signalling on a virtual clock: what the schedule promises, without a model."""

from __future__ import annotations

import itertools
import random
from collections import deque

from narrows.bench.codec_replay import ReplayCode, ReplayModel, replayed
from narrows.bench.codec_run import Run, RunResult, Traffic
from narrows.coding.events import Coding
from narrows.coding.link import LinkOptions
from narrows.coding.link_answer import Item, Kind
from narrows.coding.schedule import Schedule

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


def test_what_the_tokeniser_held_back_does_not_use_up_the_patience_of_a_round() -> None:
    """Text whose age counted from its last byte was an exception as soon as it was released."""
    schedule = Schedule(40.0, 256)
    text = Waiting(Item(Kind.TOKEN, came_ms=100.0, held_ms=45.0))
    token = Waiting(Item(Kind.TOKEN, came_ms=100.0))
    assert schedule.due_ms([text, Waiting()]) == 185.0
    assert schedule.due_ms([token, Waiting()]) == 140.0
    assert schedule.due_ms([text, token]) == 100.0, "at once where all are there"
    assert schedule.due_ms([text]) == 100.0
