"""Heads and proofs for other tools: what they print is verified from its own words, and one of
each is pinned that other implementations accepted."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.ledger_helpers import Deployment, lease, make_keys
from narrows.cli.main import main
from narrows.errors import BudgetError
from narrows.ledger.keys import public_of
from narrows.ledger.limits import Limits
from narrows.ledger.log import note
from narrows.ledger.log.merkle import Tree, check_consistency, check_inclusion, leaf_hash
from narrows.ledger.office.proof import SignedTree, consistency_proof, leaf_proof, open_log
from narrows.ledger.office.verify import verify_path

LOG_KEY, WITNESS_KEY = make_keys(7, 1)[0], make_keys(9, 1)[0]

ACCEPTED = """\
c2sp.org/tlog-proof@v1
index 6
S0cR0FayJ4OSwjH9QYWK3qjKiTrQxwSPV9omggAoRf4=
dauSgmjIb0TaXUJBGI7XHkqrLU131tUBF9rZSoQu3gM=
T2MQhKFXxU9U/Psj/164ZQxLoWDClbsTqYMrEJ1SZ34=
TtorR3MgCZLu9sh3uvxlnFyIlS2f3AeykI5dJgJW+xQ=

test.example/log
11
tubAHcNe8yoG1ShcXR8u5hcSynqvU9EI/ULCvRwUFgc=
committed base 77
committed demo 0

\u2014 test.example/log LtgV/mH10K4F7FUTjAjAHK01XfC5QkHWAm/8o6L5q+bDrP00oMj/AL0PkNHYaDhsyi9L5ytRYqEy9yBWwYedSwhvHgE=
\u2014 narrows.witness Z495+QAAAABkGFDLMyyiiO4YMU3Qb0lCb3xaWzE0w8r/OEslQP9VN+xGrIJG4sGodc6WWsqV+Ac0zJ2Y5kus8+YevC2kJeFYHq6sDw==
"""  # noqa: E501


def test_the_proof_that_others_verified() -> None:
    """proofbundle 6.3.1 accepts ``ACCEPTED``: log signature, cosignature (one of one witness)
    and inclusion of ``leaf 6``, with the keys below. Head and proofs of every size were also
    accepted by golang.org/x/mod 0.7.0. docs/log-format.md says how."""
    tree = Tree()
    for number in range(11):
        tree.append(f"leaf {number}".encode())
    origin = "test.example/log"
    text = note.Checkpoint(origin, 11, tree.root(), {"base": 77, "demo": 0}).text()
    signed = note.sign_note(text, origin, LOG_KEY)
    signed += note.cosignature_line(text, "narrows.witness", WITNESS_KEY, 1_679_315_147)
    assert leaf_proof(SignedTree(signed, 11, tree), 6) == ACCEPTED
    log = note.log_verifier(origin, public_of(LOG_KEY))
    witness = note.Verifier("narrows.witness", public_of(WITNESS_KEY), note.TYPE_COSIGNATURE)
    assert log.vkey() == "test.example/log+2ed815fe+AQxRxn+qk9P9Z37cIi312DRq8j94DfPLOl+NyjU3uM3d"
    assert witness.vkey() == "narrows.witness+678f79f9+BKS8IWCb0DYEKh68PG4NilHuqvgDbJ6sSqNh5uqrVyb2"


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment.create(tmp_path / "state")
    with made.ready(Limits(10_000)) as ledger:
        for _ in range(4):
            ledger.settle(lease(ledger, 100), 40)
    yield made
    made.close()


def _run(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    out = capsys.readouterr()
    assert ended.value.code == code, out.err
    return out.out


def test_what_the_commands_print_is_verified_by_itself(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--state", deployment.folder)
    found = verify_path(deployment.folder)
    store = deployment.store()
    leaves = store.leaves(0, found.size)
    head = _run(capsys, "log", "checkpoint", *where)
    newest = _run(capsys, "log", "checkpoint", "--newest", *where)
    assert note.parse_checkpoint(note.open_note(newest.encode())[0]).size == found.size
    checkpoint = note.parse_checkpoint(note.open_note(head.encode())[0])
    assert checkpoint.size == found.cosigned_size < found.size  # the last settlement is not yet
    assert head.count("\u2014") == 2
    for index in range(checkpoint.size):
        title, number, rest = _run(capsys, "log", "prove", index, *where).split("\n", 2)
        hashes, _, signed = rest.partition("\n\n")
        assert (title, number, signed) == ("c2sp.org/tlog-proof@v1", f"index {index}", head)
        path = [base64.b64decode(line) for line in hashes.split("\n") if line]
        digest = leaf_hash(leaves[index])
        assert check_inclusion(digest, index, checkpoint.size, path, checkpoint.root)
    tree = Tree()
    for old in range(1, checkpoint.size + 1):
        tree.append(leaves[old - 1])
        path = [
            base64.b64decode(line)
            for line in _run(capsys, "log", "prove", "--from", old, *where).split("\n")[:-1]
        ]
        assert check_consistency(old, checkpoint.size, tree.root(), checkpoint.root, path)
    _run(capsys, "log", "prove", checkpoint.size, *where, code=5)
    _run(capsys, "log", "prove", "--from", found.size, *where, code=5)
    _run(capsys, "log", "prove", *where, code=2)
    _run(capsys, "log", "prove", 1, "--from", 1, *where, code=2)
    assert "c2sp" in _run(capsys, "log", "prove", found.size - 1, "--newest", *where)
    store.close()


def test_no_proof_is_made_of_leaves_that_are_not_the_checkpoints(deployment: Deployment) -> None:
    class Changed:
        def __init__(self, at: int) -> None:
            self.store, self.at = deployment.store(), at

        def leaves(self, start: int, stop: int) -> list[bytes]:
            found = self.store.leaves(start, stop)
            if start <= self.at < stop:
                found[self.at - start] += b" "
            return found

        def __getattr__(self, name: str) -> object:
            return getattr(self.store, name)

    log = open_log(deployment.store())
    for at in range(log.size):
        with pytest.raises(BudgetError):
            open_log(Changed(at))  # type: ignore[arg-type]
    assert consistency_proof(log, log.size) == ""
    assert json.loads(deployment.store().leaves(0, 1)[0])["t"] == "genesis"
