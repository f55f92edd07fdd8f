"""What the ledger's tests share: a clock that is moved by hand, whole deployments in a folder,
and an oracle that counts bytes without windows, granules or sums."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from narrows.ledger.api import Lease
from narrows.ledger.changes import Operators, sign_change
from narrows.ledger.keys import load_private, public_of
from narrows.ledger.ledger import Ledger
from narrows.ledger.limits import Limits
from narrows.ledger.office.admin import apply_change
from narrows.ledger.office.propose import budget_document
from narrows.ledger.office.setup import create_ledger, create_log_key, create_witness
from narrows.ledger.stores.etcd_http import EtcdConfig
from narrows.ledger.stores.place import LedgerPlace
from narrows.ledger.stores.sqlite import SqliteStore
from narrows.ledger.stores.store import Store
from narrows.ledger.witness.clock import WitnessTime
from narrows.ledger.witness.server import HttpWitness, WitnessServer
from narrows.ledger.witness.witness import Witness, witness_verifier

START_MS = 1_700_000_000_000
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000


@dataclass
class FakeClock:
    """``boot``: which boot; ``ms``: CLOCK_BOOTTIME; ``wall``: the wall clock."""

    boot: str = "boot-1"
    ms: int = 1_000_000
    wall: int = START_MS

    def boot_id(self) -> str:
        return self.boot

    def boot_ms(self) -> int:
        return self.ms

    def advance(self, by_ms: int) -> None:
        self.ms += by_ms
        self.wall += by_ms

    def reboot(self, off_ms: int = 0) -> None:
        self.boot, self.ms, self.wall = self.boot + "'", 5, self.wall + off_ms


def make_keys(seed: int, count: int) -> list[Ed25519PrivateKey]:
    rng = random.Random(seed)
    return [Ed25519PrivateKey.from_private_bytes(rng.randbytes(32)) for _ in range(count)]


@dataclass
class Deployment:
    """A ledger and its witness in one folder, both on ``clock``."""

    folder: Path
    clock: FakeClock
    keys: list[Ed25519PrivateKey]
    threshold: int
    seed: int
    witnesses: list[Witness] = field(default_factory=list)

    @classmethod
    def create(
        cls,
        folder: Path,
        seed: int = 1,
        keys: int = 3,
        threshold: int = 2,
        etcd: EtcdConfig | None = None,
    ) -> Deployment:
        made = cls(folder, FakeClock(), make_keys(seed, keys), threshold, seed)
        witness_key, log_key = (
            create_witness(folder),
            create_log_key(place := LedgerPlace(folder, etcd)),
        )
        origin = f"test.example/{seed}"
        made.witness().add_log(origin, log_key, made.operators())
        create_ledger(place, origin, made.operators(), witness_key, START_MS)
        return made

    def operators(self) -> Operators:
        return Operators(tuple(sorted(public_of(key).hex() for key in self.keys)), self.threshold)

    def witness(self) -> Witness:
        path = self.folder / "witness" / "witness.db"
        times = WitnessTime(path, self.clock, lambda: self.clock.wall)
        key = load_private(self.folder / "witness" / "witness.key")
        self.witnesses.append(Witness(path, "narrows.witness", key, times.now_ms))
        return self.witnesses[-1]

    def open(
        self, witness: object = "own", gate: str = "gate", store: Store | None = None
    ) -> Ledger:
        chosen = self.witness() if witness == "own" else witness
        if store is not None:
            key = load_private(self.folder / "ledger" / "log.key")
            return Ledger(
                store,
                key,
                chosen,  # type: ignore[arg-type]
                gate,
                self.clock,
                sleep=lambda seconds: self.clock.advance(int(seconds * 1000)),
                later=lambda _, __: lambda: None,  # time passes by hand, and so does what waits
            )
        return Ledger.open(LedgerPlace(self.folder), witness=chosen, gate=gate, clock=self.clock)  # type: ignore[arg-type]

    def store(self, read_only: bool = True) -> SqliteStore:
        return SqliteStore(self.db, read_only)

    @property
    def db(self) -> Path:
        return self.folder / "ledger" / "ledger.db"

    def set_budget(
        self,
        ledger: Ledger,
        limits: Limits,
        accounts: dict[str, Limits] | None = None,
        signers: int | None = None,
        lineage: str = "base",
    ) -> int:
        named = {"answers": Limits(None)} if accounts is None else accounts
        document = budget_document(ledger.state(), lineage, limits, named, ledger.now_ms())
        chosen = self.keys[: self.threshold if signers is None else signers]
        return apply_change(ledger, document, sorted(sign_change(document, k) for k in chosen))

    @contextmanager
    def ready(
        self, limits: Limits, accounts: dict[str, Limits] | None = None, store: Store | None = None
    ) -> Iterator[Ledger]:
        ledger = self.open(store=store)
        try:
            self.set_budget(ledger, limits, accounts)
            yield ledger
        finally:
            ledger.close()

    def close(self) -> None:
        for witness in self.witnesses:
            witness.close()


@contextmanager
def served(deployment: Deployment) -> Iterator[HttpWitness]:
    """The deployment's witness over HTTP on loopback."""
    witness = deployment.witness()
    server = WitnessServer(("127.0.0.1", 0), witness)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    client = HttpWitness(
        "127.0.0.1", server.server_address[1], witness_verifier(witness.verifier.public)
    )
    try:
        yield client
    finally:
        client.close()
        server.shutdown()
        thread.join()
        server.server_close()


def lease(ledger: Ledger, want_bytes: int, account: str = "answers") -> Lease:
    """A lease that must be granted."""
    got = ledger.acquire(account, want_bytes)
    assert isinstance(got, Lease), got
    return got
