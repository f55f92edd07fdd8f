"""kill -9 on real processes and real files: the far end never got more than the log counts.

The bytes are counted where they arrive, at the read end of a pipe that outlives the gate.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from narrows.ledger.ledger import Ledger
from narrows.ledger.office.balances import current_balances
from narrows.ledger.office.demo import create_demo, demo_witness_key
from narrows.ledger.office.verify import verify_path
from narrows.ledger.stores.place import LedgerPlace
from narrows.ledger.witness.server import HttpWitness
from narrows.ledger.witness.witness import witness_verifier

CHILD = Path(__file__).with_name("kill_child.py")
MAX_LEASE_BYTES = 3000
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
"""Of children that import the tests' own modules."""


class FarEnd:
    """Counts what arrives on a pipe."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        self.received_bytes = 0
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while data := os.read(self.read_fd, 1 << 16):
            self.received_bytes += len(data)

    def drain(self) -> None:
        """All that was written before has been counted: the pipe is closed and read out."""
        os.close(self.write_fd)
        self._thread.join()
        os.close(self.read_fd)


@contextmanager
def process(arguments: list[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, *arguments], **options)  # type: ignore[call-overload]
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def witness_process(state: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    arguments = ["-m", "narrows.cli.main", "witness", "--state", str(state)]
    with process(arguments, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        yield child, json.loads(child.stdout.readline())["port"]


def _kills(state: Path, kills: int, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    cap_bytes = kills * 200_000
    create_demo(state, cap_bytes)
    total, done, witness_kills = 0, 0, 0
    while done < kills:
        with witness_process(state) as (witness, port):
            for _ in range(4):
                far = FarEnd()
                arguments = [str(CHILD), str(state), str(port), str(rng.random())[2:9]]
                with process(
                    [*arguments, str(MAX_LEASE_BYTES)], stdout=far.write_fd, stderr=subprocess.PIPE
                ) as gate:
                    assert gate.stderr is not None
                    assert gate.stderr.readline() == b"up\n", gate.stderr.read()
                    time.sleep(rng.random() ** 2 * 0.3)
                    if rng.random() < 0.2:
                        witness.kill()
                        witness.wait()
                        witness_kills += 1
                        time.sleep(rng.random() * 0.05)
                    assert gate.poll() is None, "the budget was too small for the test"
                    gate.kill()
                    gate.wait()
                far.drain()
                total, done = total + far.received_bytes, done + 1
                verified = verify_path(state)
                sums = verified.balances
                assert total <= sums.spent_bytes + sums.outstanding_bytes <= cap_bytes
                if witness.poll() is not None:
                    break
    assert total > 0
    with witness_process(state) as (_, port):
        client = HttpWitness("127.0.0.1", port, witness_verifier(demo_witness_key(state)))
        ledger = Ledger.open(LedgerPlace(state), witness=client)
        ledger.recover_dead_leases()
        spent = current_balances(ledger).spent_bytes
        ledger.close()
        client.close()
    assert total <= spent
    verified = verify_path(state)
    # at most one lease is lost at a kill, two where both accounts waited for the witness
    assert verified.balances.outstanding_bytes == 0
    assert spent - total <= (done + witness_kills) * MAX_LEASE_BYTES


def test_killed_gates_and_witnesses(tmp_path: Path) -> None:
    _kills(tmp_path / "state", kills=10, seed=20261124)


@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_killed_a_thousand_times(tmp_path: Path) -> None:
    _kills(tmp_path / "state", kills=1000, seed=int(os.environ.get("NARROWS_SEED", "1")))
