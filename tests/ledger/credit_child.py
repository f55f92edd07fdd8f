"""An auditor and its poster reduced to the ledger: credit what was settled, until it is killed.

python credit_child.py STATE WITNESS_PORT WITNESS_KEY NAME SEED CONFIG KEY

``CONFIG``: as of etcd_child.py, empty for SQLite. ``KEY``: the auditor's secret in hex. A credit
is in STATE/credit before it is posted, and is posted again after a death, whose outcome nobody
knows. Old ones are posted again at times, and leases a second time: that must be refused.
"""

from __future__ import annotations

import json
import random
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger.etcd_child import OtherMachine, etcd_of
from narrows.errors import BudgetError
from narrows.ledger.auditors import PPM
from narrows.ledger.clock import SystemClock
from narrows.ledger.leaves import credit_leaf
from narrows.ledger.ledger import Ledger
from narrows.ledger.net import Auditor, Credit, sign_credit
from narrows.ledger.office.credits import apply_credit, read_credit_file, write_credit_file
from narrows.ledger.rules import State
from narrows.ledger.stores.place import LedgerPlace
from narrows.ledger.witness.server import HttpWitness
from narrows.ledger.witness.witness import witness_verifier

MOST_LEASES = 40


def next_credit(
    state: State, lineage: str, gate: str, auditor: Auditor, rng: random.Random
) -> Credit | None:
    """Of some settled leases of one account, up to all that may be credited of each."""
    account = rng.choice(sorted(auditor.chains) or [""])
    chain, terms = auditor.chains.get(account), auditor.terms
    if chain is None:
        return None
    chosen = rng.sample(sorted(chain.leases), min(len(chain.leases), rng.randint(1, MOST_LEASES)))
    most = {one: chain.leases[one][1] * terms.most_ppm // PPM for one in chosen}
    sizes = {
        one: size if rng.random() < 0.5 else rng.randint(0, size) for one, size in most.items()
    }
    over = (chain.total + sum(sizes.values())) % terms.grain_bytes
    for one in sorted(sizes):
        cut = min(over, sizes[one])
        sizes[one], over = sizes[one] - cut, over - cut
    named = tuple(sorted((one, size) for one, size in sizes.items() if size))
    if over or not named:
        return None
    position, total = chain.position + rng.randint(1, 1000), chain.total + sum(dict(named).values())
    return Credit(
        state.origin,
        lineage,
        gate,
        account,
        auditor.epoch,
        position,
        rng.randbytes(32).hex(),
        chain.total,
        total,
        named,
    )


def again(credit: Credit) -> Credit:
    """The same leases, in a credit that follows."""
    more = credit.total - credit.previous
    return replace(
        credit, position=credit.position + 1, previous=credit.total, total=credit.total + more
    )


def refused(ledger: Ledger, credit: Credit, key: Ed25519PrivateKey) -> None:
    try:
        booked = apply_credit(ledger, credit, sign_credit(credit, key))
    except BudgetError:
        return
    if booked is not None:
        raise SystemExit(f"credited twice: {credit}")


def post(ledger: Ledger, file: Path) -> None:
    """What the file holds, as often as it takes to know what became of it."""
    credit, signature = read_credit_file(file)
    while True:
        with suppress(BudgetError):
            apply_credit(ledger, credit, signature)
            return
        time.sleep(0.05)
        with suppress(BudgetError):  # the ledger is away
            state = ledger.state().copy()
            chain = state.nets[credit.lineage].auditors[credit.gate].chains[credit.account]
            if chain.total != credit.total:
                try:
                    state.apply(credit_leaf(state, credit, signature, state.time_ms))
                except BudgetError as error:
                    raise SystemExit(f"a right credit is refused: {error}") from error


def opened(place: LedgerPlace, witness: HttpWitness, name: str, clock: SystemClock) -> Ledger:
    """As soon as the ledger is there: its leader may die while this begins."""
    while True:
        with suppress(BudgetError):
            return Ledger.open(place, witness=witness, gate=name, clock=clock)
        time.sleep(0.2)


def main() -> None:
    folder, port, witness, name, seed, words, secret = sys.argv[1:]
    state, rng, file = Path(folder), random.Random(int(seed)), Path(folder) / "credit"
    config = json.loads(words) if words else None
    place = LedgerPlace(state, etcd_of(config) if config else None)
    clock = (
        OtherMachine(f"boot-{name}", config["offset_ms"], config["rate"])
        if config
        else SystemClock()
    )
    client = HttpWitness("127.0.0.1", int(port), witness_verifier(bytes.fromhex(witness)))
    ledger = opened(place, client, name, clock)
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    if file.exists():
        post(ledger, file)
    sys.stderr.write("up\n")
    sys.stderr.flush()
    old: list[Credit] = []
    while True:
        with suppress(BudgetError):  # the ledger is away
            now = ledger.state()
            [(lineage, net)] = now.nets.items()
            gate = rng.choice(sorted(net.auditors))
            credit = next_credit(now, lineage, gate, net.auditors[gate], rng)
            if credit is not None:
                write_credit_file(file, credit, sign_credit(credit, key))
                post(ledger, file)
                old.append(credit)
                refused(ledger, rng.choice(old), key)
                refused(ledger, again(credit), key)
        time.sleep(0.01)


if __name__ == "__main__":
    main()
