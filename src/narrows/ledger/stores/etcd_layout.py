"""How leaves lie in etcd's values: several in one, each after its length."""

from __future__ import annotations

from collections.abc import Sequence

from narrows.ledger.log.canonical import MAX_INTEGER
from narrows.ledger.stores.store import StoreError

MAX_APPEND_BYTES = 1 << 20
CHUNK_BYTES = 1 << 16


def leaf_name(position: int) -> str:
    return f"leaf/{position:020d}"


def digits(size: int) -> bytes:
    return b"%020d" % size


def parse_size(value: bytes) -> int:
    if len(value) != 20 or not value.isdigit():
        raise StoreError("the ledger's size in etcd is no number")
    if (size := int(value)) > MAX_INTEGER:
        raise StoreError("the ledger's size in etcd is impossible")
    return size


def pack(first: int, leaves: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """Leaves into chunks: names and values. ``StoreError`` where etcd would not take them."""
    if sum(map(len, leaves)) > MAX_APPEND_BYTES:
        raise StoreError("the leaves are too long for one append to etcd")
    chunks: list[tuple[str, bytes]] = []
    start, data = first, b""
    for position, leaf in enumerate(leaves, first):
        data += len(leaf).to_bytes(4, "big") + leaf
        if len(data) >= CHUNK_BYTES:
            chunks.append((leaf_name(start), data))
            start, data = position + 1, b""
    if data:
        chunks.append((leaf_name(start), data))
    return chunks


def unpack(name: str, data: bytes, wanted: int) -> list[bytes]:
    """The leaves of a chunk from number ``wanted`` on, which must lie in it."""
    digits = name.removeprefix("leaf/")
    first, leaves, at = parse_size(digits.encode()), list[bytes](), 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if at + 4 > len(data) or end > len(data):
            raise StoreError(f"the leaves from {first} on are torn")
        leaves.append(data[at + 4 : end])
        at = end
    if not first <= wanted < first + len(leaves):
        raise StoreError(f"leaf {wanted} is missing")
    return leaves[wanted - first :]
