"""A gate reduced to its ledger: lease, send on standard output, settle; until it is killed.

python kill_child.py STATE WITNESS_PORT SEED MAX_LEASE [wait]

``wait``: for more where the budget is used up.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

from narrows.ledger.api import Lease
from narrows.ledger.ledger import Ledger
from narrows.ledger.office.demo import demo_witness_key
from narrows.ledger.stores.place import LedgerPlace
from narrows.ledger.witness.server import HttpWitness
from narrows.ledger.witness.witness import witness_verifier


def main() -> None:
    state, rng = Path(sys.argv[1]), random.Random(int(sys.argv[3]))
    verifier = witness_verifier(demo_witness_key(state))
    ledger = Ledger.open(
        LedgerPlace(state), witness=HttpWitness("127.0.0.1", int(sys.argv[2]), verifier)
    )
    ledger.recover_dead_leases()
    sys.stderr.write("up\n")
    sys.stderr.flush()
    while True:
        got = ledger.acquire(rng.choice(["answers", "telemetry"]), rng.randint(1, int(sys.argv[4])))
        if not isinstance(got, Lease):
            if got.reason == "depleted" and "wait" not in sys.argv[5:]:
                return
            time.sleep(0.002)
            continue  # the witness was killed: nothing leaves
        used = rng.randint(0, got.size_bytes)
        os.write(1, b"x" * used)
        ledger.settle(got, used)


if __name__ == "__main__":
    main()
