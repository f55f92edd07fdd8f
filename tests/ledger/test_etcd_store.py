"""etcd under the conformance suite, against a real member that the test starts."""

from __future__ import annotations

import os
import random
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ledger import conformance
from ledger.etcd_cluster import Cluster, cluster, needs_etcd, own_address, wait_until
from ledger.etcd_tls import make_files
from ledger.ledger_helpers import Deployment, FakeClock, lease, make_keys
from ledger.peers import listening, read_request
from narrows.errors import BudgetError, InputError
from narrows.ledger import replica
from narrows.ledger.api import Denied
from narrows.ledger.limits import Limits
from narrows.ledger.office.copying import copy_log
from narrows.ledger.office.verify import verify_log
from narrows.ledger.stores.etcd import EtcdStore
from narrows.ledger.stores.etcd_http import EtcdClient, EtcdConfig, encode_bytes
from narrows.ledger.stores.etcd_layout import MAX_APPEND_BYTES, pack, unpack
from narrows.ledger.stores.sqlite import SqliteStore, create
from narrows.ledger.stores.store import Head, Snapshot, StoreError

pytestmark = needs_etcd


@pytest.fixture(scope="module")
def etcd() -> Iterator[Cluster]:
    with cluster(1) as made:
        yield made


@dataclass
class EtcdCase:
    deployment: Deployment
    config: EtcdConfig

    def open(self) -> EtcdStore:
        return EtcdStore(self.config)


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one, for the witness: these tests need no disk."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def template(etcd: Cluster, memory: Path) -> EtcdCase:
    case = EtcdCase(Deployment.create(memory / "template", etcd=(config := etcd.config())), config)
    conformance.prepare(case.deployment, case.open())
    case.deployment.close()
    return case


@pytest.fixture
def make_case(etcd: Cluster, memory: Path, template: EtcdCase) -> object:
    def make() -> EtcdCase:
        folder = Path(tempfile.mkdtemp(dir=memory)) / "s"
        shutil.copytree(template.deployment.folder, folder)
        case = EtcdCase(Deployment(folder, FakeClock(), make_keys(1, 3), 2, 1), etcd.config())
        old, new = template.open(), case.open()
        new.create()
        copy_log(old, new)
        old.close()
        new.close()
        return case

    return make


class TestEtcd(conformance.StoreTests):
    """The suite that every store has to pass, on etcd."""


# -- what etcd limits, and how it is kept ------------------------------------------------


def test_leaves_are_read_from_any_position_whatever_the_appends_were(make_case) -> None:  # type: ignore[no-untyped-def]
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    rng, store = random.Random(seed), make_case().open()
    start = store.head().size
    written: list[bytes] = []
    for count in (1, 3, 1, 700, 2, 20):
        leaves = [
            rng.randbytes(rng.choice((0, 1, 150, 30_000 if count < 50 else 10)))
            for _ in range(count)
        ]
        store.append(start + len(written), leaves, b"n")
        written += leaves
    for _ in range(60):
        first = rng.randrange(len(written) + 1)
        stop = rng.randrange(first, len(written) + 1)
        assert store.leaves(start + first, start + stop) == written[first:stop]
    with pytest.raises(StoreError):
        store.leaves(start, start + len(written) + 1)
    store.close()


def test_the_largest_append_fits_and_a_larger_one_is_not_sent(make_case) -> None:  # type: ignore[no-untyped-def]
    store = make_case().open()
    start = store.head().size
    with pytest.raises(StoreError, match="too long"):
        store.append(start, [bytes(1 << 16)] * 17, b"n")
    assert store.head().size == start
    store.append(start, [bytes(1 << 16)] * 16, b"n" * 16_000, None, Head(start + 16, b"c" * 16_000))
    store.append(start + 16, [bytes(255)] * (MAX_APPEND_BYTES // 256), b"n")
    assert len(store.leaves(start + 16, start + 16 + 4096)) == 4096
    store.close()


def test_a_snapshot_larger_than_a_request_is_kept_in_pieces_and_the_old_ones_go(make_case) -> None:  # type: ignore[no-untyped-def]
    store = make_case().open()
    size = store.head().size
    for number in range(3):
        data = bytes([number]) * 2_500_000
        snapshot = Snapshot(size, data, (bytes(32),) * (number + 1))
        store.append(size, [b"state"], b"n", snapshot)
        assert store.snapshot() == snapshot
        assert len(store._range("piece/", "piece0")) == 5
        size += 1
    store._txn([], [store._put(next(iter(store._range("piece/", "piece0"))), b"x")], [])
    with pytest.raises(StoreError, match="pieces"):
        store.snapshot()
    store.close()


@pytest.mark.parametrize(
    ("name", "data"),
    [("leaf/7", b""), ("leaf/" + "0" * 20, b"\0\0\0"), ("leaf/" + "0" * 20, b"\0\0\0\2x")],
)
def test_torn_values_are_refused(name: str, data: bytes) -> None:
    with pytest.raises(StoreError):
        unpack(name, data, 0)
    assert pack(5, [b"a", b""]) == [("leaf/" + "5".zfill(20), b"\0\0\0\1a\0\0\0\0")]


def test_two_gates_and_the_snapshots_between_them(make_case, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Each catches up with the other's leaves, and both start from one snapshot."""
    monkeypatch.setattr(replica, "SNAPSHOT_EVERY_LEAVES", every := 100)
    case = make_case()
    deployment = case.deployment
    one = deployment.open(gate="one", store=case.open())
    two = deployment.open(gate="two", store=case.open())
    deployment.set_budget(one, Limits(10**9))
    while one.state().size < 2 * every + 40:
        for ledger in (one, two):
            held = [lease(ledger, 50) for _ in range(12)]
            for got in held:
                ledger.settle(got, 50)
            deployment.clock.advance(conformance.SETTLED_MS)
    assert one.state().snapshot() == two.state().snapshot()
    store = case.open()
    assert store.snapshot().size >= 2 * every - 1
    assert len(store._range("piece/", "piece0")) == 1
    three = deployment.open(gate="three", store=case.open())
    lease(three, 5)
    assert three.state().snapshot() == one.state().snapshot()
    for ledger in (one, two, three):
        ledger.close()
    assert verify_log(store).balances.granted_bytes == 10**9
    store.close()


# -- names of gates --------------------------------------------------------------------------


def test_a_gates_name_belongs_to_one_machine_and_one_process(make_case) -> None:  # type: ignore[no-untyped-def]
    case = make_case()
    size = case.open().head().size
    here, again, there = case.open(), case.open(), case.open()
    here.claim("gate-1", "a" * 32)
    with pytest.raises(BudgetError, match="another machine"):
        there.claim("gate-1", "b" * 32)
    there.claim("gate-2", "b" * 32)
    here.append(size, [b"1"], b"n")
    again.claim("gate-1", "a" * 32)  # the same machine, after a crash
    with pytest.raises(StoreError, match="took the name") as caught:
        here.append(size + 1, [b"2"], b"n")
    assert type(caught.value) is StoreError, "reloading would not help"
    again.append(size + 1, [b"2"], b"n")
    assert there.release("gate-1")
    assert not there.release("gate-1")
    with pytest.raises(StoreError, match="released"):
        again.append(size + 2, [b"3"], b"n")
    there.append(size + 2, [b"3"], b"n")
    for store in (here, again, there):
        store.close()


# -- answers that are lost, late, too long, or nonsense ---------------------------------------


class Lossy:
    """A way to etcd on which answers to transactions get lost, while ``losing``: the request
    ``before`` it gets there, or the answer ``after`` etcd did it."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self.losing = ""
        self.lost = 0

    def __call__(self, client: socket.socket) -> None:
        while True:
            request = read_request(client)
            lose = self.losing if b"/txn" in request.split(b"\r\n")[0] else ""
            if lose == "before":
                self.lost += 1
                return
            with socket.create_connection((self._parts.hostname, self._parts.port)) as upstream:
                upstream.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
                answer = b""
                while more := upstream.recv(65_536):
                    answer += more
            if lose:
                self.lost += 1
                return
            client.sendall(answer)
            return


@pytest.mark.parametrize("kind", ["before", "after"])
def test_a_lost_answer_is_an_unknown_outcome_that_the_id_resolves(
    etcd: Cluster, make_case, kind: str
) -> None:  # type: ignore[no-untyped-def]
    case = make_case()
    lossy = Lossy(etcd.members[0].client_url)
    with listening(lossy) as url:
        config = replace(case.config, endpoints=(url, etcd.members[0].client_url))
        ledger = case.deployment.open(store=EtcdStore(config))
        lease(ledger, 1)
        size = ledger.state().size
        ledger._session.store._client._current = 0  # type: ignore[attr-defined]
        lossy.losing = kind
        denied = ledger.acquire("answers", 100)
        assert isinstance(denied, Denied)
        assert denied.reason == "store"
        assert lossy.lost == 1, "it was not sent again"
        lossy.losing = ""
        got = lease(ledger, 100)
        store = case.open()
        leaves = store.leaves(size, store.head().size)
        ids = [leaf for leaf in leaves if b'"t":"lease"' in leaf]
        assert len(ids) == 1, "the same lease, not a second one"
        assert got.lease_id.hex().encode() in ids[0]
        store.close()
        ledger.close()


def _answers(body: bytes, length: int | None = None, status: int = 200):  # type: ignore[no-untyped-def]
    def answer(client: socket.socket) -> None:
        read_request(client)
        count = len(body) if length is None else length
        client.sendall(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n" % (status, count) + body)

    return answer


def _drips(client: socket.socket) -> None:
    read_request(client)
    for byte in b"HTTP/1.1 200 OK\r\n" * 1000:
        client.sendall(bytes([byte]))
        time.sleep(0.05)


def _endless(client: socket.socket) -> None:
    read_request(client)
    client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        client.sendall(b"100000\r\n" + b" " * 0x100000 + b"\r\n")


NONSENSE = {
    "silence": lambda client: client.recv(1 << 20) and time.sleep(2),
    "a byte now and then": _drips,
    "no end": _endless,
    "no json": _answers(b"{"),
    "a list": _answers(b"[]"),
    "depth": _answers(b"[" * 100_000),
    "too short": _answers(b"{}", 5),
    "an error": _answers(b'{"error":"etcdserver: no leader","code":14}', status=503),
    "rows": _answers(b'{"kvs":7}'),
    "a row": _answers(b'{"kvs":[7]}'),
    "no list": _answers(b'{"kvs":null}'),
    "no text": _answers(b'{"kvs":[{"key":7}]}'),
    "no number of json": _answers(b'{"kvs":[],"count":NaN}'),
    "a field twice": _answers(b'{"kvs":[],"kvs":[]}'),
    "refused, and why": _answers(b'{"responses":5}'),
    "refused, and nothing": _answers(b'{"responses":[{"response_range":null}]}'),
    "base64": _answers(b'{"kvs":[{"key":"%%%","value":""}]}'),
    "no ledger": _answers(b"{}"),
    "no number": _answers(
        b'{"kvs":[{"key":"%s","value":"%s"},{"key":"%s","value":""}]}'
        % tuple(encode_bytes(w).encode() for w in (b"n/head/size", b"-1", b"n/head/note"))
    ),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_an_error_in_bounded_time(kind: str) -> None:
    with listening(NONSENSE[kind]) as url:
        store = EtcdStore(EtcdConfig((url,), "n", 0.5 if kind != "no end" else 5.0))
        with pytest.raises(StoreError):
            store.head()
        with pytest.raises(StoreError) as caught:
            store.append(3, [b"x"], b"n")
        assert type(caught.value) is StoreError, "unknown, never 'nothing was stored'"
        store.close()


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":"etcdserver: no leader","message":"etcdserver: no leader","code":14}',
        b'{"code":14,"message":"etcdserver: no leader","details":[]}',  # 3.6
        b'{"error":{"grpc_code":14},"message":"etcdserver: no leader"}',
    ],
)
def test_a_refusal_is_told_in_the_words_of_each_version(body: bytes) -> None:
    with listening(_answers(body, status=503)) as url:
        store = EtcdStore(EtcdConfig((url,), "n", 3.0))
        with pytest.raises(StoreError, match="status 503: etcdserver: no leader"):
            store.head()
        store.close()


def test_reads_go_to_the_next_member_and_writes_only_if_nothing_was_sent(
    etcd: Cluster, make_case
) -> None:  # type: ignore[no-untyped-def]
    case = make_case()
    alive = etcd.members[0].client_url
    closed = "http://127.0.0.1:9"
    store = EtcdStore(replace(case.config, endpoints=(closed, alive)))
    size = store.head().size
    store._client._current = 0
    store._client._drop()
    store.append(size, [b"x"], b"n")  # refused connections have sent nothing
    store.close()
    with listening(NONSENSE["an error"]) as url:
        store = EtcdStore(replace(case.config, endpoints=(url, alive)))
        assert store.head() == Head(size + 1, b"n")
        store._client._current = 0
        store._client._drop()
        with pytest.raises(StoreError, match="no leader"):
            store.append(size + 1, [b"y"], b"n")
        store.append(size + 1, [b"y"], b"n")  # the next call goes to the next member
        store.close()


# -- configuration and TLS -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (EtcdConfig(()), "endpoints"),
        (EtcdConfig(("http://10.0.0.1:2379",)), "beyond loopback without TLS"),
        (EtcdConfig(("https://10.0.0.1:2379",)), "ca_file"),
        (EtcdConfig(("127.0.0.1:2379",)), "is not http"),
        (EtcdConfig(("http://127.0.0.1:2379/x",)), "is not http"),
        (EtcdConfig(("http://127.0.0.1:99999",)), "is not http"),
        (EtcdConfig(prefix="a/b"), "prefix"),
        (EtcdConfig(timeout_s=0), "timeout_s"),
    ],
)
def test_wrong_configurations_are_named(config: EtcdConfig, word: str) -> None:
    with pytest.raises(InputError) as caught:
        EtcdClient(config)
    assert any(word in problem for problem in caught.value.problems)


def test_tls_with_client_certificates(tmp_path: Path) -> None:
    files, other = tmp_path / "tls", tmp_path / "other"
    make_files(files, own_address())
    make_files(other, own_address())
    server = (files / "ca.crt", files / "server.crt", files / "server.key")
    with cluster(1, server) as made:
        config = replace(
            made.config(),
            ca_file=files / "ca.crt",
            cert_file=files / "client.crt",
            key_file=files / "client.key",
        )
        wait_until(lambda: _answers_to(config), "etcd answers over TLS")
        deployment = Deployment.create(tmp_path / "state", etcd=config)
        conformance.prepare(deployment, EtcdStore(config))
        ledger = deployment.open(store=EtcdStore(config))
        assert lease(ledger, 10).size_bytes == 10
        ledger.close()
        deployment.close()
        # a client that the authority did not sign, and a server that ours did not
        stranger = replace(config, cert_file=other / "client.crt", key_file=other / "client.key")
        assert not _answers_to(stranger)
        assert not _answers_to(replace(config, ca_file=other / "ca.crt"))
        with pytest.raises(BudgetError, match="no TLS identity"):
            EtcdStore(replace(config, key_file=other / "client.key"))


def _answers_to(config: EtcdConfig) -> bool:
    client = EtcdClient(config)
    try:
        client.read("/v3/kv/range", {"key": "AA=="})
    except StoreError:
        return False
    finally:
        client.close()
    return True


# -- other places --------------------------------------------------------------------------


def test_a_ledger_moves_from_a_file_to_etcd_and_back(etcd: Cluster, tmp_path: Path) -> None:
    made = Deployment.create(tmp_path / "state")
    with made.ready(Limits(1000)) as ledger:
        for _ in range(3):
            ledger.settle(lease(ledger, 100), 60)
        before = ledger.state()
    config = etcd.config()
    store, file = EtcdStore(config), made.store()
    store.create()
    with pytest.raises(StoreError, match="there is a ledger"):
        store.create()
    copy_log(file, store)
    assert verify_log(store) == verify_log(file)
    again = made.open(gate="gate-1", store=EtcdStore(config))
    assert again.state().snapshot() == before.snapshot()
    assert lease(again, 5000).size_bytes == 820
    again.close()
    behind = made.open()
    got = behind.acquire("answers", 1)
    assert isinstance(got, Denied)
    assert got.reason == "behind", "the file is no second ledger"
    behind.close()
    create(tmp_path / "backup.db")
    backup = SqliteStore(tmp_path / "backup.db")
    copy_log(store, backup)
    assert verify_log(backup) == verify_log(store)
    assert verify_log(backup).balances.left_bytes == 0
    for closing in (store, file, backup):
        closing.close()
    made.close()


@pytest.mark.parametrize("damage", ["leaf", "size", "note", "snapshot", "gone", "older"])
def test_changed_data_are_refused(make_case, damage: str) -> None:  # type: ignore[no-untyped-def]
    """Whoever modifies etcd's data without the log key can stop the gates, nothing else."""
    case = make_case()
    deployment, store = case.deployment, case.open()
    with_leases = deployment.open(store=case.open())
    head = store.head()
    got = lease(with_leases, 300)
    with_leases.close()
    name, chunk = next(
        (n, d)
        for n, d in store._range("leaf/", "leaf0").items()
        if got.lease_id.hex().encode() in d
    )
    changes = {
        "leaf": [store._put(name, chunk.replace(b'"bytes":300', b'"bytes":100'))],
        "size": [store._put("head/size", b"%020d" % (head.size - 1))],
        "note": [store._put("head/note", store.head().note.replace(b"300", b"100"))],
        "snapshot": [store._put("snapshot", b"{}")],
        "gone": [
            {"request_delete_range": {"key": store._key("leaf/"), "range_end": store._key("leaf0")}}
        ],
        "older": [
            store._put("head/size", b"%020d" % head.size),
            store._put("head/note", head.note),
        ],
    }  # fmt: skip
    store._txn([], changes[damage], [])
    opened = deployment.open(store=case.open())
    denied = opened.acquire("answers", 1)
    assert isinstance(denied, Denied)
    assert denied.reason == ("behind" if damage == "older" else "store")
    opened.close()
    store.close()
