"""A gate on a machine of its own, reduced to its ledger: lease, write on standard output, settle.

python etcd_child.py STATE WITNESS_PORT WITNESS_KEY GATE SEED CONFIG

``CONFIG``: JSON of the etcd configuration (``tls``: its three files), the clock's offset and
rate. Every grant is a line on standard error before a byte of it is written: id, bytes, time; a
denial is a line with its reason. SIGTERM ends it in order.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from narrows.ledger.api import Lease
from narrows.ledger.clock import SystemClock
from narrows.ledger.ledger import Ledger
from narrows.ledger.stores.etcd_http import EtcdConfig
from narrows.ledger.stores.place import LedgerPlace
from narrows.ledger.witness.server import HttpWitness
from narrows.ledger.witness.witness import witness_verifier

MAX_LEASE_BYTES = 20_000


class OtherMachine(SystemClock):
    """Another boot, another offset, another rate."""

    def __init__(self, boot: str, offset_ms: int, rate: float) -> None:
        self._boot, self._offset_ms, self._rate = boot, offset_ms, rate

    def boot_id(self) -> str:
        return self._boot

    def boot_ms(self) -> int:
        return self._offset_ms + int(super().boot_ms() * self._rate)


def etcd_of(config: dict[str, Any]) -> EtcdConfig:
    files = [Path(file) if file else None for file in config["tls"]]
    return EtcdConfig(tuple(config["endpoints"]), config["prefix"], config["timeout_s"], *files)


def main() -> None:
    state, port, key, gate, seed, words = sys.argv[1:]
    config, rng, stopped = json.loads(words), random.Random(int(seed)), list[int]()
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    ledger = Ledger.open(
        LedgerPlace(Path(state), etcd_of(config)),
        witness=HttpWitness("127.0.0.1", int(port), witness_verifier(bytes.fromhex(key))),
        gate=gate,
        clock=OtherMachine(f"boot-{gate}", config["offset_ms"], config["rate"]),
    )
    ledger.recover_dead_leases()
    while not stopped:
        got = ledger.acquire("answers", rng.randint(1, MAX_LEASE_BYTES))
        if isinstance(got, Lease):
            _say(f"lease {got.lease_id.hex()} {got.size_bytes} {time.monotonic():.3f}")
            used = rng.randint(got.size_bytes // 2, got.size_bytes)
            _write(used)
            ledger.settle(got, used)
        else:
            _say(f"denied {got.reason} {time.monotonic():.3f} {got.detail}")
            time.sleep(0.1)
    ledger.close()


def _write(count: int) -> None:
    data = bytes(count)
    while data:
        data = data[os.write(1, data) :]


def _say(line: str) -> None:
    os.write(2, line.encode() + b"\n")


if __name__ == "__main__":
    main()
