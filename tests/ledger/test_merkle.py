"""The tree against an independent implementation, exhaustively on small sizes."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from narrows.errors import BudgetError
from narrows.ledger.log.merkle import (
    EMPTY_ROOT,
    Tree,
    check_consistency,
    check_inclusion,
    leaf_hash,
    node_hash,
    root_before,
    root_of,
)

SIZES = 33


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word by word."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return node_hash(naive_root(leaves[:k]), naive_root(leaves[k:]))


LEAVES = [bytes([n]) * (n % 5) for n in range(SIZES)]


@pytest.fixture(scope="module")
def tree() -> Tree:
    made = Tree()
    for leaf in LEAVES:
        made.append(leaf)
    return made


def test_vectors_of_rfc_6962_test_suites() -> None:
    # Certificate Transparency's reference leaves and roots, used by every implementation.
    leaves = [bytes.fromhex(h) for h in ("", "00", "10", "2021", "3031", "40414243")]
    roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    ]
    assert [root_of(leaves[: n + 1]).hex() for n in range(6)] == roots
    assert root_of([]).hex() == hashlib.sha256(b"").hexdigest()


def test_roots_equal_pymerkle_and_the_definition(tree: Tree) -> None:
    other = InmemoryTree(algorithm="sha256")
    for size, leaf in enumerate(LEAVES, 1):
        other.append_entry(leaf)
        assert tree.root(size) == naive_root(LEAVES[:size]) == other.get_root(size)


def test_every_inclusion_proof_of_small_trees(tree: Tree) -> None:
    for size in range(1, SIZES + 1):
        root = tree.root(size)
        for index in range(size):
            path = tree.inclusion(index, size)
            digest = leaf_hash(LEAVES[index])
            assert check_inclusion(digest, index, size, path, root)
            assert root_before(index, size, path) == tree.root(index)
            assert not check_inclusion(leaf_hash(b"other"), index, size, path, root)
            for wrong in {*range(size)} - {index}:
                assert not check_inclusion(digest, wrong, size, path, root)
            assert not check_inclusion(digest, index, size, [*path, root], root)
            for drop in range(len(path)):
                assert not check_inclusion(digest, index, size, path[:drop], root)


def test_every_consistency_proof_of_small_trees(tree: Tree) -> None:
    for new in range(SIZES + 1):
        for old in range(new + 1):
            path = tree.consistency(old, new)
            roots = tree.root(old), tree.root(new)
            assert check_consistency(old, new, *roots, path)
            assert not check_consistency(old, new, roots[0], bytes(32), path) or old == 0
            assert not check_consistency(old, new, *roots, [*path, bytes(32)])
            if old != new:
                assert not check_consistency(old, new, bytes(32), roots[1], path)
            for at in range(len(path)):
                assert not check_consistency(old, new, *roots, path[:at] + path[at + 1 :])
                bent = [*path[:at], bytes(32), *path[at + 1 :]]
                assert not check_consistency(old, new, *roots, bent)


def test_no_proof_joins_two_histories(tree: Tree) -> None:
    """The counterexample that matters: a log rolled back by some leaves that went on."""
    for kept in range(SIZES - 1):
        forked = Tree()
        for leaf in LEAVES[:kept]:
            forked.append(leaf)
        while forked.size < SIZES:
            forked.append(b"another history")
        for old in range(kept + 1, SIZES + 1):
            proof = forked.consistency(old)
            assert not check_consistency(old, SIZES, tree.root(old), forked.root(), proof)


@given(st.integers(0, 300), st.data())
def test_a_pruned_tree_still_proves_from_its_cut_on(size: int, data: st.DataObject) -> None:
    rng = random.Random(size)
    leaves = [rng.randbytes(3) for _ in range(size)]
    whole, pruned = Tree(), Tree()
    cut = data.draw(st.integers(0, size))
    for n, leaf in enumerate(leaves):
        whole.append(leaf)
        pruned.append(leaf)
        if n + 1 == cut:
            pruned.prune(cut)
    again = Tree.from_frontier(cut, whole.frontier(cut))
    for leaf in leaves[cut:]:
        again.append(leaf)
    old = data.draw(st.integers(cut, size))
    for tree in (pruned, again):
        assert tree.holds(cut)
        assert tree.root() == whole.root()
        assert tree.consistency(old) == whole.consistency(old)


def test_what_was_pruned_is_refused_not_guessed() -> None:
    tree = Tree()
    for leaf in LEAVES:
        tree.append(leaf)
    tree.prune(SIZES)
    assert not tree.holds(7)
    with pytest.raises(BudgetError):
        tree.root(7)
    with pytest.raises(BudgetError):
        Tree.from_frontier(5, [bytes(32)])


@given(st.integers(-2, 70), st.integers(-2, 70), st.lists(st.binary(max_size=40), max_size=70))
def test_random_proofs_never_verify(old: int, new: int, path: list[bytes]) -> None:
    assert not check_consistency(old, new, b"a" * 32, b"b" * 32, path)
    assert not check_inclusion(b"a" * 32, old, new, path, b"b" * 32)
