"""The ledger in an etcd cluster, shared by gates on several machines.

What someone who modifies etcd's data can achieve, without the log key: make the gates refuse to
send. With it: as with any store, see docs/trusted-base.md. A cluster restored from an older
backup is behind the witness.

    PREFIX/head/size, head/note    the head; ``size`` as 20 digits
    PREFIX/leaf/FIRST              leaves from number FIRST on, each after its length (4 bytes)
    PREFIX/cosigned                20 digits, then the newest cosigned checkpoint
    PREFIX/snapshot                which pieces make up the snapshot, their digest, the frontier
    PREFIX/piece/SIZE/DIGEST/I     the snapshot in pieces that etcd can take
    PREFIX/gate/NAME               which machine and which process has this gate's name

One append is one etcd transaction under a comparison of ``head/size``: etcd carries it out as
a whole or not at all, and answers when a majority has it on disk. All reads are linearizable,
etcd's default; serializable ones, which a member without a majority still answers, are used
nowhere. Nothing has a lease or TTL of etcd's: no budget returns by itself.

Sizes: etcd takes 1.5 MB and 128 operations a request. Leaves of one append are at most
1 MiB, packed into values of about 64 KiB (``etcd_layout``).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from narrows.errors import BudgetError
from narrows.ledger.log.canonical import Fields, decode, encode, unhex
from narrows.ledger.stores import etcd_layout as layout
from narrows.ledger.stores.etcd_http import (
    Announce,
    EtcdClient,
    EtcdConfig,
    decode_bytes,
    encode_bytes,
)
from narrows.ledger.stores.store import ConflictError, Head, Snapshot, StoreError

PIECE_BYTES = 1 << 19
MAX_PIECES = 256
PAGE_CHUNKS = 128
SNAPSHOT_TRIES = 4

Op = dict[str, Any]


class EtcdStore:
    """A ``Store`` in the cluster that ``config`` names. Errors as in ``Store``."""

    shared = True

    def __init__(self, config: EtcdConfig, announce: Announce = lambda size_bytes: None) -> None:
        self._client = EtcdClient(config, announce)
        self._prefix = config.prefix
        self._claim: tuple[str, bytes] | None = None  # gate, and what its key must hold

    # -- Store -------------------------------------------------------------------------

    def head(self) -> Head | None:
        found = self._range("head/", "head0")
        if set(found) != {"head/note", "head/size"}:
            raise StoreError(
                f"there is no ledger under {self._prefix}/ in etcd", "make one: narrows ledger init"
            )
        size = layout.parse_size(found["head/size"])
        return Head(size, found["head/note"]) if size else None

    def leaves(self, start: int, stop: int) -> list[bytes]:
        leaves: list[bytes] = []
        while start + len(leaves) < stop:
            position = start + len(leaves)
            page = self._range(layout.leaf_name(position), layout.leaf_name(stop), PAGE_CHUNKS)
            if not page or min(page) != layout.leaf_name(position):
                # The leaf lies inside a chunk, the last one that starts before it.
                page = self._range("leaf/", layout.leaf_name(position), 1, last_first=True)
            before = len(leaves)
            for name in sorted(page):
                leaves += layout.unpack(name, page[name], start + len(leaves))
            if len(leaves) == before:
                raise StoreError(f"leaves are missing between {position} and {stop}")
        return leaves[: stop - start]

    def append(
        self,
        expected_size: int,
        leaves: Sequence[bytes],
        note: bytes,
        snapshot: Snapshot | None = None,
        cosigned: Head | None = None,
        *,
        expected_note: bytes | None = None,
    ) -> None:
        ops = [self._put(name, data) for name, data in layout.pack(expected_size, leaves)]
        ops.append(self._put("head/size", layout.digits(expected_size + len(leaves))))
        ops.append(self._put("head/note", note))
        if snapshot is not None:
            ops += self._put_snapshot(snapshot)
        if cosigned is not None:
            ops.append({"request_txn": self._newer_cosigned(cosigned)})
        # Compare and swap inside the transaction: between a read and a write another gate
        # could append, and both would grant the same bytes.
        compare = [self._equal("head/size", layout.digits(expected_size))]
        failure = [self._get("head/size"), self._get("head/note")]
        if expected_note is not None:
            compare.append(self._equal("head/note", expected_note))
        if self._claim is not None:
            gate, value = self._claim
            compare.append(self._equal(f"gate/{gate}", value))
            failure.append(self._get(f"gate/{gate}"))
        answer = self._txn(compare, ops, failure)
        if answer.get("succeeded") is not True:
            raise self._refusal(answer, expected_size, expected_note)

    def cosigned(self) -> bytes | None:
        value = self._range("cosigned").get("cosigned", b"")
        return value[21:] or None

    def put_cosigned(self, cosigned: Head) -> None:
        request = self._newer_cosigned(cosigned)
        self._client.write("/v3/kv/txn", request)

    def snapshot(self) -> Snapshot | None:
        for _ in range(SNAPSHOT_TRIES):
            pointer = self._range("snapshot").get("snapshot")
            if pointer is None:
                return None
            snapshot = self._read_snapshot(pointer)
            if snapshot is not None:
                return snapshot
        raise StoreError("pieces of the snapshot are missing, or are not those that it names")

    def close(self) -> None:
        self._client.close()

    # -- gates' names ------------------------------------------------------------------

    def claim(self, gate: str, machine: str) -> None:
        """Append as ``gate`` from now on, and nobody else as it: a second gate of that name
        would count this one's leases as dead while it sends. ``BudgetError`` where another
        machine has the name; an earlier process of ``machine`` can append no more."""
        name, value = f"gate/{gate}", f"{machine} {secrets.token_hex(8)}".encode()
        held = self._range(name).get(name)
        if held is not None and held.split(b" ")[0] != machine.encode():
            raise BudgetError(
                f"another machine is the gate {gate!r} of this ledger",
                "give each gate its own [gate] name, or see narrows ledger release",
            )
        missing = {"target": "CREATE", "result": "EQUAL", "create_revision": "0"}
        compare = missing | {"key": self._key(name)} if held is None else self._equal(name, held)
        if self._txn([compare], [self._put(name, value)], []).get("succeeded") is not True:
            raise StoreError(f"another process took the name of gate {gate!r} at this moment")
        self._claim = gate, value

    def release(self, gate: str) -> bool:
        """Free a gate's name whose machine is gone; whether anyone had it."""
        name = f"gate/{gate}"
        held = name in self._range(name)
        self._txn([], [{"request_delete_range": {"key": self._key(name)}}], [])
        return held

    def create(self) -> None:
        """Make an empty ledger. ``StoreError`` where the prefix has one."""
        missing = {
            "target": "CREATE",
            "result": "EQUAL",
            "create_revision": "0",
            "key": self._key("head/size"),
        }
        names = {
            "head/size": layout.digits(0),
            "head/note": b"",
            "cosigned": layout.digits(0) + b"\n",
        }
        ops = [self._put(name, value) for name, value in names.items()]
        if self._txn([missing], ops, []).get("succeeded") is not True:
            raise StoreError(f"there is a ledger under {self._prefix}/ in etcd")

    # -- requests ----------------------------------------------------------------------

    def _txn(self, compare: list[Op], success: list[Op], failure: list[Op]) -> dict[str, Any]:
        request = {"compare": compare, "success": success, "failure": failure}
        return self._client.write("/v3/kv/txn", request)

    def _range(
        self, first: str, end: str = "", limit: int = 0, last_first: bool = False
    ) -> dict[str, bytes]:
        """Names (without the prefix) to values, from ``first`` to before ``end``; just ``first``
        where that is empty. Linearizable: ``serializable`` is never set."""
        request: Op = {"key": self._key(first)}
        if end:
            request["range_end"] = self._key(end)
        if limit:
            request["limit"] = str(limit)
        if last_first:
            request |= {"sort_order": "DESCEND", "sort_target": "KEY"}
        return self._entries(self._client.read("/v3/kv/range", request))

    def _entries(self, answer: object) -> dict[str, bytes]:
        rows = answer.get("kvs", []) if isinstance(answer, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise StoreError("etcd's answer makes no sense")
        found = {}
        for row in rows:
            name = decode_bytes(row.get("key")).decode("ascii", "replace")
            found[name.removeprefix(f"{self._prefix}/")] = decode_bytes(row.get("value"))
        return found

    def _key(self, name: str) -> str:
        return encode_bytes(f"{self._prefix}/{name}".encode())

    def _put(self, name: str, value: bytes) -> Op:
        return {"request_put": {"key": self._key(name), "value": encode_bytes(value)}}

    def _get(self, name: str) -> Op:
        return {"request_range": {"key": self._key(name)}}

    def _equal(self, name: str, value: bytes, result: str = "EQUAL") -> Op:
        encoded = encode_bytes(value)
        return {"target": "VALUE", "result": result, "key": self._key(name), "value": encoded}

    def _refusal(
        self, answer: dict[str, Any], expected_size: int, expected_note: bytes | None
    ) -> StoreError:
        """Why a transaction did nothing."""
        found: dict[str, bytes] = {}
        responses = answer.get("responses")
        if not isinstance(responses, list) or not all(isinstance(r, dict) for r in responses):
            raise StoreError("etcd's answer makes no sense")
        for response in responses:
            found |= self._entries(response.get("response_range"))
        if not found.keys() >= {"head/size", "head/note"}:
            raise StoreError("etcd's answer lacks what was asked")  # not: nothing was stored
        if self._claim is not None and found.get(f"gate/{self._claim[0]}") != self._claim[1]:
            return StoreError(
                f"another process took the name of gate {self._claim[0]!r}, or it was released",
                "stop one of the two",
            )
        same_note = expected_note in (None, found.get("head/note"))
        if same_note and layout.parse_size(found.get("head/size", b"")) == expected_size:
            return StoreError("etcd refused an append for no reason")
        return ConflictError("another gate has appended to the ledger")

    def _newer_cosigned(self, cosigned: Head) -> Op:
        size = layout.digits(cosigned.size)
        older = self._equal("cosigned", size, "LESS")  # values start with their size
        put = self._put("cosigned", size + b"\n" + cosigned.note)
        return {"compare": [older], "success": [put], "failure": []}

    # -- snapshots ---------------------------------------------------------------------

    def _put_snapshot(self, snapshot: Snapshot) -> list[Op]:
        """Store the pieces; returns what makes them the snapshot and drops all others. A crash
        in between leaves pieces that the next snapshot removes."""
        digest = sha256(snapshot.data).hexdigest()
        folder = f"piece/{snapshot.size:020d}/{digest}/"
        count = max(1, -(-len(snapshot.data) // PIECE_BYTES))
        if count > MAX_PIECES:
            raise StoreError("the state is too large for a snapshot in etcd")
        for number in range(count):
            piece = snapshot.data[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
            self._txn([], [self._put(f"{folder}{number:04d}", piece)], [])
        frontier = [node.hex() for node in snapshot.frontier]
        document = {"size": snapshot.size, "digest": digest, "pieces": count, "frontier": frontier}
        drops = [("piece/", folder), (folder[:-1] + "0", "piece0")]
        return [
            self._put("snapshot", encode(document)),
            *(
                {"request_delete_range": {"key": self._key(a), "range_end": self._key(b)}}
                for a, b in drops
            ),
        ]

    def _read_snapshot(self, pointer: bytes) -> Snapshot | None:
        """None where its pieces are gone: another gate has just stored a newer one."""
        try:
            fields = Fields(decode(pointer), "the snapshot's pointer")
            size, digest = fields.integer("size"), fields.hex("digest", 32)
            count = fields.integer("pieces", 1, MAX_PIECES)
            frontier = [unhex(node, 32) for node in fields.items("frontier", 63)]
            fields.done()
        except BudgetError as error:
            raise StoreError(f"the snapshot cannot be read: {error.message}") from error
        data = b""
        for number in range(count):
            name = f"piece/{size:020d}/{digest.hex()}/{number:04d}"
            piece = self._range(name).get(name, b"")
            if len(piece) > PIECE_BYTES:
                raise StoreError("a piece of the snapshot is too long")
            data += piece
        nodes = tuple(node for node in frontier if node is not None)
        if sha256(data).digest() != digest or len(nodes) != len(frontier):
            return None
        return Snapshot(size, data, nodes)
