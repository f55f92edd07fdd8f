"""Operator keys that anyone can sign for: with one of them in a set of k, one person raises alone.

Nobody here knows a secret of the neutral point; what it "signs" is R = sB, for every message.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ledger.ledger_helpers import START_MS, Deployment, make_keys
from narrows.cli.main import main
from narrows.errors import BudgetError, InputError
from narrows.gate.config import GateConfig
from narrows.ledger import rules
from narrows.ledger.changes import Operators, message_of, sign_change, signers
from narrows.ledger.keys import public_of
from narrows.ledger.leaves import change_leaf, genesis_leaf
from narrows.ledger.ledger import Ledger
from narrows.ledger.limits import Limits
from narrows.ledger.log import note
from narrows.ledger.log.canonical import Document, encode
from narrows.ledger.office.admin import apply_change
from narrows.ledger.office.propose import budget_document, operators_document
from narrows.ledger.office.setup import create_ledger, create_log_key, make_operators, read_log_file
from narrows.ledger.stores.place import LedgerPlace
from narrows.models.shelf.operators import operator_keys

NEUTRAL = (b"\x01" + bytes(31)).hex()
BASE_POINT = b"\x58" + 31 * b"\x66"
FORGED = (BASE_POINT + (1).to_bytes(32, "little")).hex()  # R = 1 B, s = 1: of any message
ALICE, BOB = make_keys(4, 2)
REFUSED = "anyone can sign"


def pair(key: Ed25519PrivateKey) -> Operators:
    return Operators(tuple(sorted([public_of(key).hex(), NEUTRAL])), 2)


def forged_with(document: Document, *keys: Ed25519PrivateKey) -> list[list[str]]:
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(NEUTRAL)).verify(
        bytes.fromhex(FORGED), message_of(document)
    )  # OpenSSL takes it: else this file would test nothing
    return sorted([*(sign_change(document, key) for key in keys), [NEUTRAL, FORGED]])


def test_no_ledger_is_made_in_which_one_person_raises_alone(tmp_path: Path) -> None:
    """The whole attack: a set of two, one of which nobody holds, and 9 TB by Alice alone."""
    create_log_key(LedgerPlace(tmp_path))
    with pytest.raises(BudgetError, match=REFUSED):
        _raise_alone(tmp_path)


def _raise_alone(folder: Path) -> None:
    create_ledger(LedgerPlace(folder), "forged.example/1", pair(ALICE), None, START_MS)
    with closing(Ledger.open(LedgerPlace(folder), witness=None, gate="operator")) as ledger:
        document = budget_document(
            ledger.state(), "base", Limits(9 * 10**12), {"answers": Limits(None)}, ledger.now_ms()
        )
        apply_change(ledger, document, forged_with(document, ALICE))


def test_no_change_brings_such_a_key_in(tmp_path: Path) -> None:
    """Neither the ledger nor, asked past it, the witness takes the change."""
    made = Deployment.create(tmp_path / "state")
    ledger = made.open()
    keys = sorted([*made.operators().keys[:2], NEUTRAL])
    document = operators_document(ledger.state(), made.operators(), ledger.now_ms())
    document |= {"keys": keys}
    signatures = forged_with(document, *made.keys)
    with pytest.raises(BudgetError, match=REFUSED):
        apply_change(ledger, document, signatures)
    leaf = {"t": "change", "change": document, "signatures": signatures}
    with pytest.raises(BudgetError, match=REFUSED):
        made.witness().set_operators(encode(leaf | {"time_ms": ledger.now_ms()}))
    assert ledger.state().operators == made.operators()
    ledger.close()
    made.close()


def test_a_set_that_has_such_a_key_counts_no_forged_signature() -> None:
    """Were it in there all the same, from before keys were looked at."""
    state = rules.State()
    good = Operators(tuple(sorted(public_of(key).hex() for key in (ALICE, BOB))), 2)
    state.apply(genesis_leaf("f.example/1", public_of(ALICE), None, good, START_MS))
    state.operators = pair(ALICE)
    document = budget_document(state, "base", Limits(10**12), {"a": Limits(None)}, START_MS)
    signatures = forged_with(document, ALICE)
    with pytest.raises(BudgetError, match="does not verify"):
        signers(document, signatures)
    snapshot = state.snapshot()
    with pytest.raises(BudgetError, match="does not verify"):
        state.apply(change_leaf(state, document, signatures, START_MS))
    with pytest.raises(BudgetError, match=REFUSED):
        rules.State.from_snapshot(snapshot)


def _log_file(key: str, operator: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        document = {"origin": "o", "log_key": key, "keys": [operator], "threshold": 1}
        (folder / "log.json").write_bytes(encode(document) + b"\n")
        return read_log_file(folder / "log.json")

    return read


def _genesis(log: str, witness: str) -> Callable[[Path], object]:
    def apply(_: Path) -> object:
        operators = Operators((public_of(BOB).hex(),), 1)
        leaf = genesis_leaf("o", bytes.fromhex(log), bytes.fromhex(witness), operators, START_MS)
        return rules.State().apply(leaf)

    return apply


GOOD = public_of(BOB).hex()


@pytest.mark.parametrize(
    "enter",
    [
        lambda _: make_operators([NEUTRAL, GOOD], 1),
        _log_file(NEUTRAL, GOOD),
        _log_file(GOOD, NEUTRAL),
        _genesis(NEUTRAL, GOOD),
        _genesis(GOOD, NEUTRAL),
        lambda _: note.Verifier("w", bytes.fromhex(NEUTRAL), note.TYPE_COSIGNATURE),
        lambda _: note.log_verifier("o", bytes.fromhex(NEUTRAL)),
        lambda _: GateConfig(witness="127.0.0.1:1", witness_key=NEUTRAL).check(),
        lambda _: operator_keys([GOOD, NEUTRAL]),
    ],
)
def test_every_place_where_a_key_enters_refuses_it(
    enter: Callable[[Path], object], tmp_path: Path
) -> None:
    with pytest.raises((BudgetError, InputError)) as caught:
        enter(tmp_path)
    said = [caught.value.message, *getattr(caught.value, "problems", ())]
    assert any(REFUSED in line for line in said)


def test_a_witness_follows_no_log_of_such_a_key(tmp_path: Path) -> None:
    made = Deployment.create(tmp_path / "state")
    with pytest.raises(BudgetError, match=REFUSED):
        made.witness().add_log("other/1", bytes.fromhex(NEUTRAL), made.operators())
    made.close()


@pytest.mark.parametrize(
    "words",
    [
        ("ledger", "init", "--operator", NEUTRAL, "--witness-key", GOOD),
        ("ledger", "init", "--operator", GOOD, "--witness-key", NEUTRAL),
        ("ledger", "init", "--operator", GOOD, "--witness-key", "\u0660" * 64),
    ],
)
def test_no_command_makes_a_ledger_with_it(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = ("--origin", "o.example/1", "--threshold", "1", "--state", str(tmp_path / "state"))
    with pytest.raises(SystemExit) as ended:
        main([*words, *rest])
    assert ended.value.code == 2
    assert not (tmp_path / "state").exists(), capsys.readouterr().err
