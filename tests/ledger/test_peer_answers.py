"""What peers may say inside well-formed HTTP: every parser answers with its own error alone."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.ledger_helpers import Deployment
from ledger.peers import listening
from narrows.errors import BudgetError, InputError, PeerError
from narrows.ledger.api import Denied
from narrows.ledger.keys import load_private, public_of
from narrows.ledger.limits import Limits
from narrows.ledger.log import note
from narrows.ledger.replica import Replica
from narrows.ledger.session import WitnessClient
from narrows.ledger.stores.etcd import EtcdStore
from narrows.ledger.stores.etcd_http import EtcdConfig, _document, encode_bytes
from narrows.ledger.stores.store import Head, Snapshot, StoreError
from narrows.ledger.witness.witness import ANSWER_TITLE, WitnessError, parse_latest
from narrows.wire.gatestate import GateState, PortState, decode_state, encode_state, fetch_state
from narrows.wire.gatestats import read_gate_kernel, read_gate_ports
from narrows.wire.http_call import CallError, HttpReply

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
COSIGNER = note.Verifier("w", PUBLIC, note.TYPE_COSIGNATURE)
fuzz = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["\ud800", "\u00b2", "AA==", "%%%", encode_bytes(b"n/head/size"), "9" * 30]),
    st.sampled_from([encode_bytes(b"%020d" % n) for n in (0, 3, 10**19)]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["kvs", "key", "value", "responses", "response_range", "succeeded", "count", "x"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


def _names(*names: str) -> dict[str, Any]:
    rows = [{"key": encode_bytes(f"n/{name}".encode()), "value": "MDA="} for name in names]
    return {"kvs": rows}


TEMPLATES: tuple[dict[str, Any], ...] = (
    _names("head/note", "head/size"),
    _names("leaf/00000000000000000000"),
    _names("cosigned", "snapshot", "gate/g"),
    {"succeeded": True},
    {"succeeded": False, "responses": [{"response_range": _names("head/size", "head/note")}]},
    {"responses": [{"response_range": _names("gate/g")}, {}]},
)


@st.composite
def _documents(draw: st.DrawFn) -> dict[str, Any]:
    """An answer of etcd in which something is of another type or value."""
    document = json.loads(json.dumps(draw(st.sampled_from(TEMPLATES))))
    here: Any = document
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            return dict(document)
        key = draw(st.sampled_from(keys))
        if not isinstance(here[key], dict | list) or draw(st.integers(0, 2)) == 0:
            here[key] = draw(VALUES)
            return dict(document)
        here = here[key]


class _Liar:
    """In place of ``EtcdClient``."""

    def __init__(self, documents: list[dict[str, Any]]) -> None:
        self._documents = documents

    def read(self, path: str, request: object) -> dict[str, Any]:
        return self._documents.pop(0) if len(self._documents) > 1 else self._documents[0]

    write = read

    def close(self) -> None: ...


CALLS: dict[str, Callable[[EtcdStore], object]] = {
    "head": lambda s: s.head(),
    "leaves": lambda s: s.leaves(0, 3),
    "append": lambda s: s.append(3, [b"x"], b"n", None, Head(3, b"c"), expected_note=b"m"),
    "append with a snapshot": lambda s: s.append(3, [b"x"], b"n", Snapshot(3, b"data", ())),
    "cosigned": lambda s: s.cosigned(),
    "put_cosigned": lambda s: s.put_cosigned(Head(3, b"n")),
    "snapshot": lambda s: s.snapshot(),
    "claim": lambda s: s.claim("g", "m"),
    "release": lambda s: s.release("g"),
    "create": lambda s: s.create(),
}


@pytest.mark.parametrize("call", CALLS)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.one_of(_documents(), st.dictionaries(st.text(max_size=4), VALUES)),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)
def test_lying_etcd_answers_are_store_errors(
    call: str, documents: list[dict[str, Any]], claimed: bool
) -> None:
    store = EtcdStore(EtcdConfig(("http://127.0.0.1:9",), "n"))
    store._client = _Liar(documents)  # type: ignore[assignment]
    if claimed:
        store._claim = "g", b"m x"
    try:
        CALLS[call](store)
    except StoreError:
        pass
    except BudgetError:
        assert call == "claim"


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"responses": 5},
        {"responses": None},
        {"responses": []},
        {"responses": [5, None, [], {"response_range": 5}]},
        {"responses": [{"response_range": {"kvs": [{"key": ["x"]}]}}]},
        {"succeeded": "true", "responses": {}},
    ],
)
def test_a_refusal_that_makes_no_sense_is_an_unknown_outcome(answer: dict[str, Any]) -> None:
    store = EtcdStore(EtcdConfig(("http://127.0.0.1:9",), "n"))
    store._client = _Liar([answer])  # type: ignore[assignment]
    with pytest.raises(StoreError) as caught:
        store.append(3, [b"x"], b"n", expected_note=b"m")
    assert type(caught.value) is StoreError, "never 'nothing was stored'"


@fuzz
@given(
    st.integers(100, 599),
    st.one_of(
        st.binary(max_size=40),
        VALUES.map(lambda v: json.dumps(v).encode()),
        st.dictionaries(st.sampled_from(["error", "message", "code"]), VALUES).map(
            lambda v: json.dumps(v).encode()
        ),
        st.sampled_from([b"[" * 99_999, b'{"a":' * 9999, b"9" * 9999, b'{"a":1,"a":1}', b"\xff"]),
    ),
)
def test_bodies_of_etcd_are_an_object_or_a_call_error(status: int, body: bytes) -> None:
    try:
        document = _document(HttpReply(status, body))
    except CallError as error:
        said = str(error)
    else:
        assert status == 200
        assert isinstance(document, dict)
        return
    assert said.isprintable()
    assert len(said) < 400


# -- the witness's notes -------------------------------------------------------------------

NOTE_BYTES = st.one_of(
    st.binary(max_size=80),
    st.text(
        "\u2014 w/+=AB\n0123456789\u00b2abc\x00\r\u0663", max_size=120
    ).map(lambda t: t.encode("utf-8", "replace")),
)  # fmt: skip


@fuzz
@given(NOTE_BYTES)
def test_notes_and_cosignatures_are_parsed_or_note_errors(data: bytes) -> None:
    line = note.cosignature_line("o\n3\n" + encode_bytes(bytes(32)) + "\n", "w", KEY, 7)
    for whole in (data, data + b"\n\n" + line, line[:20] + data + line[20:]):
        for parse in (
            lambda d: note.open_note(d),
            lambda d: note.verify_note(d, COSIGNER),
            lambda d: note.verify_note(d, note.Verifier("w", PUBLIC)),
            lambda d: note.parse_lines(d.decode("utf-8", "replace")),
            lambda d: note.parse_checkpoint(d.decode("utf-8", "replace")),
            lambda d: note.parse_hashes(d.decode("utf-8", "replace").split("\n")),
        ):
            try:
                parse(whole)
            except note.NoteError:
                continue


@fuzz
@given(st.one_of(st.dictionaries(st.text(max_size=5), VALUES), _documents()), NOTE_BYTES)
def test_live_answers_that_the_witness_itself_signed_are_checked(
    fields: dict[str, Any], junk: bytes
) -> None:
    """A witness is a peer too: its key makes no field of its answer true."""
    nonce = bytes(32)
    right: dict[str, Any] = {
        "title": ANSWER_TITLE, "origin": "o", "nonce": nonce.hex(),
        "time_ms": 1, "size": 0, "root": bytes(32).hex(), "note": "",
    }  # fmt: skip
    texts = [json.dumps(right | {k: v}) for k, v in zip(right, fields.values(), strict=False)]
    for text in [*texts, junk.decode("utf-8", "replace")]:
        clean = "".join(c for c in text if c >= " ")
        try:
            signed = note.sign_note(f"{ANSWER_TITLE}\n{clean}\n", "w", KEY)
        except UnicodeEncodeError:
            continue
        for data in (signed, junk):
            with pytest.raises(BudgetError):
                parse_latest(data, COSIGNER, "o", nonce)


@pytest.fixture(scope="module")
def deployment() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        made = Deployment.create(Path(folder) / "state")
        yield made
        made.close()


class _Fooled:
    """The real witness, until something is put in place of an answer."""

    def __init__(self, real: WitnessClient) -> None:
        self.real, self.verifier = real, real.verifier
        self.lie: bytes | None = None

    def cosign(self, old: int, proof: list[bytes], signed: bytes) -> bytes:
        return self.real.cosign(old, proof, signed) if self.lie is None else self.lie

    def latest(self, origin: str, nonce: bytes) -> bytes:
        return self.real.latest(origin, nonce)

    def recover(self, leaf: bytes, path: list[bytes], signed: bytes) -> bytes:
        return self.real.recover(leaf, path, signed)

    def set_operators(self, leaf: bytes) -> None:
        self.real.set_operators(leaf)


def test_cosignatures_that_are_none_deny_the_lease(deployment: Deployment) -> None:
    fooled = _Fooled(deployment.witness())
    ledger = deployment.open(fooled)
    deployment.set_budget(ledger, Limits(1 << 40))

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(NOTE_BYTES, st.just(b"\xe2\x80\x94 w AAAAAAAA\n" * 16)))
    def attack(lie: bytes) -> None:
        fooled.lie = lie
        got = ledger.acquire("answers", 1)
        assert isinstance(got, Denied)
        assert got.reason == "witness"

    attack()
    fooled.lie = None
    assert not isinstance(ledger.acquire("answers", 1), Denied)
    ledger.close()


def test_a_witness_that_names_one_size_and_signs_another_ends_the_question(
    deployment: Deployment,
) -> None:
    asked = []

    class Contrary(_Fooled):
        def cosign(self, old: int, proof: list[bytes], signed: bytes) -> bytes:
            if self.lie is None:
                return super().cosign(old, proof, signed)
            asked.append(old)
            raise WitnessError("the witness is at size 99", size=99)

    contrary = Contrary(deployment.witness())
    ledger = deployment.open(contrary)
    contrary.lie = b""
    got = ledger.acquire("answers", 1)
    assert isinstance(got, Denied)
    assert got.reason == "witness"
    assert len(asked) == 1
    ledger.close()


class _Endless:
    """A store that says that there are more leaves than the log key signed, and has them."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def head(self) -> Head:
        head = self._real.head()
        return Head(head.size + (1 << 40), head.note)

    def leaves(self, start: int, stop: int) -> list[bytes]:
        self.asked += 1
        return list(self._real.leaves(start, stop))


def test_no_leaf_is_read_of_a_head_that_nobody_signed(deployment: Deployment) -> None:
    endless = _Endless(deployment.store())
    key = load_private(deployment.folder / "ledger" / "log.key")
    with pytest.raises(BudgetError, match="size"):
        Replica(endless, public_of(key), None).reload()  # type: ignore[arg-type]
    assert endless.asked == 0
    endless.close()


# -- what the gate tells others ------------------------------------------------------------


@fuzz
@given(st.one_of(st.binary(max_size=60), st.dictionaries(st.text(max_size=5), VALUES)))
def test_state_lines_are_read_or_peer_errors(data: bytes | dict[str, Any]) -> None:
    right = encode_state(GateState({"answers": PortState("ok", 3)}))
    lines = []
    if isinstance(data, bytes):
        lines = [data, right[:30] + data + right[30:], right[:-1] + data]
    else:
        for document in (
            data,
            {"v": 1, "ports": data},
            {"v": 1, "ports": {"a": data}},
            *({"v": 1, "ports": {"a": {"state": "ok", "retry_after_s": v}}} for v in data.values()),
            *({"v": 1, "ports": {"a": {"state": v, "retry_after_s": 1}}} for v in data.values()),
        ):
            lines.append(json.dumps(document, separators=(",", ":")).encode() + b"\n")
    lines += [b"[" * 4000, b"9" * 4000, b'{"v":1,"ports":{"a":NaN}}\n']
    for line in lines:
        try:
            state = decode_state(line)
        except PeerError:
            continue
        assert encode_state(state) == line


def _drips(client: socket.socket) -> None:
    while True:
        client.sendall(b"{")
        time.sleep(0.05)


def _floods(client: socket.socket) -> None:
    while True:
        client.sendall(b"{" * 65536)


@pytest.mark.parametrize(
    "answer",
    [_drips, _floods, lambda client: client.recv(1), lambda client: client.sendall(b"{\n")],
)
def test_a_gate_that_sends_no_state_line_is_a_peer_error_in_bounded_time(
    answer: Callable[[socket.socket], object],
) -> None:
    with listening(answer) as url, pytest.raises(PeerError):
        asyncio.run(fetch_state("127.0.0.1", int(url.rpartition(":")[2]), timeout_s=0.5))


@fuzz
@given(st.one_of(st.binary(max_size=60), VALUES))
def test_stats_files_are_read_or_input_errors(data: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gate" / "stats.json"
        path.parent.mkdir()
        documents = [data, {"ports": data, "kernel": data}, {"ports": {"a": data}}]
        documents += [
            {"ports": {"a": {"sent_bytes": data}}},
            {"kernel": {"state": "on", "passed_bytes": data}},
            {"kernel": {"state": data, "passed_bytes": {"links": data}, "alarm": data}},
        ]
        for document in documents if not isinstance(data, bytes) else [data]:
            raw = document if isinstance(document, bytes) else json.dumps(document).encode()
            path.write_bytes(raw)
            for read in (read_gate_ports, read_gate_kernel):
                try:
                    found = read(Path(folder))
                except InputError:
                    continue
                assert isinstance(found, dict)
