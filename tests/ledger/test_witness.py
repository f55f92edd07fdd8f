"""The witness: cosigns only what extends, survives races and hostile requests."""

from __future__ import annotations

import http.client
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.ledger_helpers import START_MS, Deployment, FakeClock, lease, make_keys, served
from narrows.errors import BudgetError
from narrows.ledger.changes import sign_change
from narrows.ledger.keys import load_private, public_of, save_private
from narrows.ledger.limits import Limits
from narrows.ledger.log import note
from narrows.ledger.log.canonical import encode
from narrows.ledger.log.merkle import EMPTY_ROOT, Tree
from narrows.ledger.office.admin import apply_change
from narrows.ledger.office.propose import operators_document
from narrows.ledger.office.setup import make_operators
from narrows.ledger.witness.server import MAX_BODY_BYTES, parse_add_checkpoint
from narrows.ledger.witness.witness import NONCE_BYTES, Latest, Witness, WitnessError, parse_latest

ORIGIN = "test.example/1"


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment.create(tmp_path / "state")
    yield made
    made.close()


class Log:
    """A log of which the test holds the key: it may sign what it likes."""

    def __init__(self, deployment: Deployment) -> None:
        self.key = load_private(deployment.folder / "ledger" / "log.key")
        self.tree = Tree()

    def grow(self, *leaves: bytes) -> bytes:
        for leaf in leaves:
            self.tree.append(leaf)
        return self.signed()

    def signed(
        self,
        key: Ed25519PrivateKey | None = None,
        origin: str = ORIGIN,
        committed: dict[str, int] | None = None,
    ) -> bytes:
        checkpoint = note.Checkpoint(origin, self.tree.size, self.tree.root(), committed or {})
        return note.sign_note(checkpoint.text(), origin, key or self.key)


def test_only_extensions_are_cosigned(deployment: Deployment) -> None:
    witness, log = deployment.witness(), Log(deployment)
    first = log.grow(b"a", b"b", b"c")
    line = witness.cosign(0, [], first)
    text = note.open_note(first)[0]
    signatures = note.parse_lines(line.decode())
    assert note.find_signature(text, signatures, witness.verifier) == START_MS // 1000
    assert witness.cosign(3, [], first), "the same head again: its answer may have been lost"
    second = log.grow(b"d", b"e")
    proof = log.tree.consistency(3)
    for old, hashes, signed, size in [
        (3, [], second, None),
        (3, proof[:-1], second, None),
        (3, [*proof, bytes(32)], second, None),
        (0, [], second, 3),
        (5, [], second, 3),
        (4, log.tree.consistency(4), second, 3),
    ]:
        with pytest.raises(WitnessError) as caught:
            witness.cosign(old, hashes, signed)
        assert caught.value.size == size
    assert witness.cosign(3, proof, second)
    with pytest.raises(WitnessError):  # back to the first
        witness.cosign(3, [], first)
    with pytest.raises(note.NoteError, match="above"):
        witness.cosign(5, [], first)


def test_a_fork_of_the_same_size_is_refused(deployment: Deployment) -> None:
    witness, log, fork = deployment.witness(), Log(deployment), Log(deployment)
    witness.cosign(0, [], log.grow(b"a", b"b"))
    with pytest.raises(WitnessError):
        witness.cosign(2, [], fork.grow(b"a", b"x"))


def test_the_sums_of_a_head_cannot_be_changed_afterwards(deployment: Deployment) -> None:
    witness, log = deployment.witness(), Log(deployment)
    with pytest.raises(WitnessError, match="sums"):  # not of no leaves either
        witness.cosign(0, [], log.signed(committed={"base": 5}))
    log.grow(b"a", b"b")
    first = log.signed(committed={"base": 500, "other": 7})
    line = witness.cosign(0, [], first)
    for committed in ({"base": 499, "other": 7}, {"base": 501, "other": 7}, {"base": 500}, {}):
        with pytest.raises(WitnessError, match="sums"):
            witness.cosign(2, [], log.signed(committed=committed))
        with pytest.raises(BudgetError):  # nor by the way of a recovery whose answer was lost
            witness.recover(_recovery(log, deployment), [], log.signed(committed=committed))
    assert witness.cosign(2, [], first) == line
    assert witness.recover(_recovery(log, deployment), [], first) == line
    assert _latest(witness).note == first


def _latest(witness: Witness) -> Latest:
    nonce = bytes(NONCE_BYTES)
    return parse_latest(witness.latest(ORIGIN, nonce), witness.verifier, ORIGIN, nonce)


def _recovery(
    log: Log,
    deployment: Deployment,
    base_root: bytes | None = None,
    not_after_ms: int = START_MS,
    witnessed: tuple[int, bytes] = (0, EMPTY_ROOT),
) -> bytes:
    """A recovery that k operators signed, as the next leaf of ``log``."""
    root = log.tree.root() if base_root is None else base_root
    document = {
        "kind": "recover",
        "origin": ORIGIN,
        "after": [0, bytes(32).hex()],
        "not_after_ms": not_after_ms,
        "base": [log.tree.size, root.hex()],
        "witnessed": [witnessed[0], witnessed[1].hex()],
        "gaps": {},
    }
    pairs = sorted(sign_change(document, key) for key in deployment.keys[:2])
    return encode({"t": "change", "change": document, "signatures": pairs, "time_ms": START_MS})


@pytest.mark.parametrize("kept", range(9))
def test_the_witness_checks_the_leaves_that_a_recovery_was_signed_for(
    deployment: Deployment, kept: int
) -> None:
    witness, lost, log = deployment.witness(), Log(deployment), Log(deployment)
    witness.cosign(0, [], lost.grow(*(bytes([n]) for n in range(12))))
    if kept:
        log.grow(*(bytes([n]) for n in range(kept)))
    head = (12, lost.tree.root())

    def attempt(leaf: bytes) -> None:
        """The leaf and one more after it."""
        new = Log(deployment)
        new.grow(*(bytes([n]) for n in range(kept)), leaf, b"more")
        witness.recover(leaf, new.tree.inclusion(kept, new.tree.size), new.signed())

    with pytest.raises(WitnessError, match="other leaves"):
        attempt(_recovery(log, deployment, b"\x11" * 32, witnessed=head))
    with pytest.raises(WitnessError, match="expired"):
        attempt(_recovery(log, deployment, not_after_ms=START_MS - 1, witnessed=head))
    assert witness.logs() == {ORIGIN: 12}
    attempt(_recovery(log, deployment, witnessed=head))
    assert witness.logs() == {ORIGIN: kept + 2}


def test_an_expired_change_of_operators_does_not_move_the_witness(deployment: Deployment) -> None:
    witness, ledger = deployment.witness(), deployment.open()
    keys = [public_of(key).hex() for key in deployment.keys[:2]]
    document = operators_document(ledger.state(), make_operators(keys, 2), START_MS, 1000)
    pairs = sorted(sign_change(document, key) for key in deployment.keys[:2])
    leaf = encode({"t": "change", "change": document, "signatures": pairs, "time_ms": START_MS})
    deployment.clock.advance(1001)
    with pytest.raises(BudgetError, match="expired"):
        apply_change(ledger, document, pairs)
    with pytest.raises(WitnessError, match="expired"):
        witness.set_operators(leaf)
    assert witness._log(ORIGIN).operators == ledger.state().operators == deployment.operators()
    deployment.clock.ms -= 1  # before the ledger has looked again: the last valid moment
    later = deployment.witness()
    later.set_operators(leaf)
    assert later._log(ORIGIN).operators.keys == tuple(sorted(keys))
    deployment.clock.ms += 1
    later.set_operators(leaf)  # seen before
    ledger.close()


def test_the_ledger_takes_no_operators_that_its_witness_would_refuse(
    deployment: Deployment,
) -> None:
    """The witness's clock is ahead: for it the change has expired, for the ledger not yet."""
    own, ledger = deployment.witness(), deployment.open()
    assert ledger.now_ms() == START_MS  # this boot's anchor
    ledger.close()
    key = load_private(deployment.folder / "witness" / "witness.key")
    path = deployment.folder / "witness" / "witness.db"
    ahead = Witness(path, "narrows.witness", key, lambda: START_MS + 1001)
    ledger = deployment.open(ahead)
    before = ledger.state().operators
    document = operators_document(
        ledger.state(),
        make_operators([public_of(k).hex() for k in deployment.keys[:2]], 2),
        ledger.now_ms(),
        1000,
    )
    pairs = sorted(sign_change(document, k) for k in deployment.keys[:2])
    size = ledger.state().size
    with pytest.raises(BudgetError, match="expired at the witness"):
        apply_change(ledger, document, pairs)
    assert (ledger.state().size, ledger.state().operators) == (size, before)
    assert own._log(ORIGIN).operators == before
    ledger.close()
    ahead.close()


def test_only_the_logs_own_key_counts(deployment: Deployment) -> None:
    witness, log = deployment.witness(), Log(deployment)
    log.grow(b"a")
    stranger = make_keys(5, 1)[0]
    for signed in (log.signed(stranger), log.signed(origin="other.example")):
        with pytest.raises(BudgetError):
            witness.cosign(0, [], signed)
    with pytest.raises(WitnessError):
        witness.add_log(ORIGIN, public_of(stranger), deployment.operators())


def test_the_head_is_stored_before_the_cosignature_exists(deployment: Deployment) -> None:
    log = Log(deployment)
    first = deployment.witness()
    first.cosign(0, [], log.grow(b"a"))
    first.close()
    again = deployment.witness()
    assert again.logs() == {ORIGIN: 1}
    with pytest.raises(WitnessError) as caught:
        again.cosign(0, [], Log(deployment).grow(b"z"))
    assert caught.value.size == 1


def test_two_witness_processes_on_one_file_never_go_back(deployment: Deployment) -> None:
    """The race of tlog-witness: the later request must not store an older head."""
    log = Log(deployment)
    heads = [(n, log.tree.consistency(n), log.grow(bytes([n]))) for n in range(30)]
    heads = [(n, log.tree.consistency(n, n + 1), head) for n, _, head in heads]
    witnesses = [deployment.witness(), deployment.witness()]
    sizes: list[int] = []

    def work(number: int) -> None:
        done = number
        while done < 30:
            try:
                witnesses[number].cosign(*heads[done])
                done += 1
            except WitnessError as error:
                done = error.size if error.size is not None else done
            sizes.append(witnesses[number].logs()[ORIGIN])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(sizes) == 30
    assert deployment.witness().logs() == {ORIGIN: 30}


def test_live_answers_are_bound_to_the_question(deployment: Deployment) -> None:
    witness, log = deployment.witness(), Log(deployment)
    signed = log.grow(b"a")
    witness.cosign(0, [], signed)
    nonce = bytes(range(NONCE_BYTES))
    answer = witness.latest(ORIGIN, nonce)
    latest = parse_latest(answer, witness.verifier, ORIGIN, nonce)
    assert (latest.size, latest.root, latest.note) == (1, log.tree.root(), signed)
    assert latest.time_ms == START_MS
    for origin, asked in ((ORIGIN, bytes(NONCE_BYTES)), ("other.example", nonce)):
        with pytest.raises(BudgetError):
            parse_latest(answer, witness.verifier, origin, asked)
    other = note.Verifier(
        witness.verifier.name, public_of(make_keys(6, 1)[0]), note.TYPE_COSIGNATURE
    )
    for bad in (answer.replace(b'"size":1', b'"size":0'), answer[:-2], b"", signed):
        with pytest.raises(BudgetError):
            parse_latest(bad, witness.verifier, ORIGIN, nonce)
    with pytest.raises(BudgetError):
        parse_latest(answer, other, ORIGIN, nonce)
    with pytest.raises(WitnessError):
        witness.latest(ORIGIN, b"short")


def test_the_witness_clock_ignores_a_wall_clock_set_while_it_runs(deployment: Deployment) -> None:
    nonce = bytes(NONCE_BYTES)

    def now() -> int:
        witness = deployment.witness()
        return parse_latest(witness.latest(ORIGIN, nonce), witness.verifier, ORIGIN, nonce).time_ms

    assert now() == START_MS
    deployment.clock.wall += 10**12
    deployment.clock.ms += 5
    assert now() == START_MS + 5
    deployment.clock.reboot(0)
    assert now() == START_MS + 10**12, "a new boot reads the wall clock once"
    deployment.clock.reboot(-2 * 10**12)
    assert now() == START_MS + 10**12, "and never goes back"


# -- over HTTP -------------------------------------------------------------------------


def test_a_newer_schema_of_the_witness_is_refused(deployment: Deployment) -> None:
    path = deployment.folder / "witness" / "witness.db"
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        db.execute("PRAGMA user_version = 0")  # before versions were written
        deployment.witness().close()
        db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(WitnessError, match="schema version 2"):
        deployment.witness()


def test_hostile_requests_leave_the_witness_working(deployment: Deployment) -> None:
    with served(deployment) as client:
        host, port = client._host, client._port

        def post(path: str, body: bytes, headers: dict[str, str] | None = None) -> int:
            connection = http.client.HTTPConnection(host, port, timeout=5)
            connection.request("POST", path, body, headers or {})
            status = connection.getresponse().status
            connection.close()
            return status

        assert post("/add-checkpoint", b"") == 400
        assert post("/add-checkpoint", b"old 0\n\n\xff\xff") == 400
        assert post("/nothing", b"{}") == 400
        assert post("/latest", b"[" * 100_000) == 400
        assert post("/latest", b'{"nonce":"00","origin":"x"}') == 400
        assert post("/recover", b'{"leaf":"","note":"","path":[1]}') in (400, 422)
        assert post("/operators", b'{"leaf":"7b7d"}') in (400, 422)
        assert post("/latest", b"", {"Content-Length": str(MAX_BODY_BYTES + 1)}) == 413
        assert post("/latest", b"", {"Content-Length": "-1"}) == 413
        for junk in (b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" * 50, b""):
            with socket.create_connection((host, port), timeout=5) as raw:
                raw.sendall(junk)
        ledger = deployment.open(client)
        deployment.set_budget(ledger, Limits(100))
        assert lease(ledger, 10).size_bytes == 10
        ledger.close()


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300))
def test_random_add_checkpoint_bodies(body: bytes) -> None:
    for data in (body, b"old 3\n" + body, b"old 3\n\n" + body):
        try:
            old, proof, _ = parse_add_checkpoint(data)
        except BudgetError:
            continue
        assert old >= 0
        assert all(len(h) == 32 for h in proof)


# -- key files -------------------------------------------------------------------------


def test_key_files_are_private_and_may_have_a_passphrase(tmp_path: Path) -> None:
    key = make_keys(6, 1)[0]
    save_private(tmp_path / "plain.key", key)
    save_private(tmp_path / "locked.key", key, b"secret")
    for name, passphrase in (("plain", None), ("locked", b"secret")):
        path = tmp_path / f"{name}.key"
        assert path.stat().st_mode & 0o777 == 0o600
        assert load_private(path, passphrase).private_bytes_raw() == key.private_bytes_raw()
    for wrong in (None, b"other"):
        with pytest.raises(BudgetError):
            load_private(tmp_path / "locked.key", wrong)
    with pytest.raises(BudgetError):
        save_private(tmp_path / "plain.key", key)
    (tmp_path / "plain.key").chmod(0o640)
    with pytest.raises(BudgetError, match="others"):
        load_private(tmp_path / "plain.key")
    (tmp_path / "junk.key").write_bytes(b"-----BEGIN")
    (tmp_path / "junk.key").chmod(0o600)
    with pytest.raises(BudgetError):
        load_private(tmp_path / "junk.key")
    assert FakeClock().boot_ms() > 0
