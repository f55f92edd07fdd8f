"""Members of etcd cut from the network under four gates: each alone, and each majority.

Nothing is killed: a member that is cut off goes on and believes what it believes. Cut are the
link (both ends see it), all traffic (nobody does), a member from the other two but not from the
gates, and two together, who elect a leader that no gate reaches.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.netns import needs_kernel
from ledger.etcd_cluster import needs_etcd, wait_until
from ledger.etcd_netns import GATES, MEMBERS, SpreadCluster, address_of, spread_cluster
from ledger.test_etcd_gates import Site, site

pytestmark = [needs_etcd, needs_kernel]

Cut = Callable[[SpreadCluster, int], None]
ALONE: dict[str, Cut] = {
    "link": lambda etcd, number: etcd.unplug(number),
    "silence": lambda etcd, number: etcd.cut(number),
    "from the members": lambda etcd, number: etcd.cut(number, (GATES,)),
}


def _pair_together(etcd: SpreadCluster, left: int) -> None:
    one, two = (number for number in range(MEMBERS) if number != left)
    etcd.cut(one, (address_of(two),))
    etcd.cut(two, (address_of(one),))


def _pair_apart(etcd: SpreadCluster, left: int) -> None:
    for number in range(MEMBERS):
        if number != left:
            etcd.unplug(number)


def _all_apart(etcd: SpreadCluster, left: int) -> None:
    for number in range(MEMBERS):
        etcd.cut(number, (GATES,))


MAJORITY: dict[str, Cut] = {
    "together": _pair_together,
    "links": _pair_apart,
    "from each other": _all_apart,
}


@pytest.fixture
def spread() -> Iterator[SpreadCluster]:
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent) as folder, spread_cluster(Path(folder)) as made:
        yield made


def _minority_cut(made: Site, etcd: SpreadCluster, number: int, kind: str) -> None:
    """Every gate goes on with the other two, and after the healing with three."""
    ALONE[kind](etcd, number)
    made.progress(2)
    if kind == "from the members":
        assert not etcd.members[number].answers(), "a member alone answers no linearizable read"
    etcd.heal()
    etcd.wait()


def _majority_cut(made: Site, etcd: SpreadCluster, left: int, kind: str) -> None:
    """Every gate stops and says why, no byte more arrives; after the healing all go on."""
    MAJORITY[kind](etcd, left)
    before = [len(gate.lines("denied store")) for gate in made.gates]
    for gate, count in zip(made.gates, before, strict=True):
        wait_until(lambda g=gate, c=count: len(g.lines("denied store")) > c, "a denial")
    leases = [gate.leases for gate in made.gates]
    arrived = [gate.far.received_bytes for gate in made.gates]
    if kind == "together":
        assert not etcd.members[left].answers(), "the gates' own side has no majority"
    for gate in made.gates:
        count = len(gate.lines("denied"))
        wait_until(lambda g=gate, c=count: len(g.lines("denied")) > c, "another denial")
        assert "etcd: " in " ".join(gate.lines("denied")[-1])
    assert leases == [gate.leases for gate in made.gates]
    assert arrived == [gate.far.received_bytes for gate in made.gates]
    etcd.heal()
    etcd.wait()
    made.progress(1)


def _cuts(etcd: SpreadCluster, folder: Path, rounds: int) -> None:
    """In each round every member alone and every majority, kinds and order drawn."""
    alone_gap_s = 0.0
    with site(etcd, folder) as made:
        for turn in range(rounds):
            kinds = made.rng.sample(sorted(ALONE), len(ALONE))
            for number in made.rng.sample(range(MEMBERS), MEMBERS):
                _minority_cut(made, etcd, number, kinds[(number + turn) % len(kinds)])
        made.progress(1)
        alone_gap_s = max(gate.longest_gap_s() for gate in made.gates)
        for turn in range(rounds):
            kinds = made.rng.sample(sorted(MAJORITY), len(MAJORITY))
            for left in made.rng.sample(range(MEMBERS), MEMBERS):
                _majority_cut(made, etcd, left, kinds[(left + turn) % len(kinds)])
        for gate in made.gates:
            gate.stop()
        result = made.check()
    facts = {"rounds": rounds, "cuts": 2 * MEMBERS * rounds, "minority_gap_s": alone_gap_s}
    print(json.dumps(facts | result))
    assert result["overspend_bytes"] == 0
    assert result["lost_leases"] == 0


@pytest.mark.slow
def test_each_member_and_each_majority_cut_under_four_gates(
    spread: SpreadCluster, tmp_path: Path
) -> None:
    _cuts(spread, tmp_path, rounds=1)


@pytest.mark.torture
@pytest.mark.timeout(14400)
def test_members_and_majorities_cut_again_and_again(spread: SpreadCluster, tmp_path: Path) -> None:
    _cuts(spread, tmp_path, rounds=int(os.environ.get("NARROWS_CUTS", "20")))
