"""Check the models of this folder with Spin: ``python spin/check.py`` (minutes), ``--short``.

Each row is one run of ``pan``: a bound and the kinds of faults, or a mutant that must be caught.
The table goes to standard output; the exit status is 1 if any row is not as it should be. Needs
``spin`` and a C compiler.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
CRASHES, STORE, WITNESS, RESTORES, RECOVERIES, CLOSES = 1, 2, 4, 8, 16, 32
CC_FLAGS = ("-O2", "-w", "-DSAFETY", "-DNOREDUCE", "-DVECTORSZ=4096")
EXACT, COMPACT = "-DCOLLAPSE", "-DHC4"  # every state, or 16-byte hashes of them
MAX_DEPTH = 200_000


@dataclass(frozen=True)
class Check:
    """``kinds``, ``faults``: at most so many faults of these kinds. ``mutant``: what is wrong in
    the model on purpose. ``states``: how they are kept."""

    name: str
    budget: int = 2
    want: int = 1
    held: int = 1
    faults: int = 1
    kinds: int = 0
    mutant: int = 0
    model: str = "lease.pml"
    spin: tuple[str, ...] = ()
    states: str = EXACT

    def environment(self) -> dict[str, str]:
        return {
            "BUDGET": str(self.budget),
            "WANT": str(self.want),
            "HELD": str(self.held),
            "FAULTS": str(self.faults),
            "KINDS": str(self.kinds),
            "MUTANT": str(self.mutant),
        }


@dataclass(frozen=True)
class Result:
    """``error``: what was violated, empty if nothing. ``complete``: all states were searched."""

    error: str
    complete: bool
    states: int
    depth: int
    memory_mb: float
    seconds: float


def missing() -> str:
    """Which program is not installed; empty if none."""
    return next((name for name in ("spin", "cc") if shutil.which(name) is None), "")


@dataclass
class Checker:
    """Compiles each variant of a model once."""

    folder: Path
    memory_mb: int = 1000
    _programs: dict[tuple[str, tuple[str, ...], str], Path] = field(default_factory=dict)

    def run(self, check: Check, timeout_s: float = 3600) -> Result:
        program = self._program(check)
        started = time.monotonic()
        done = subprocess.run(
            [program, f"-m{MAX_DEPTH}"],
            cwd=program.parent,
            env=os.environ | check.environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=True,
        )
        return parse(done.stdout, time.monotonic() - started)

    def _program(self, check: Check) -> Path:
        key = (check.model, check.spin, check.states)
        if key not in self._programs:
            place = self.folder / str(len(self._programs))
            place.mkdir()
            source = FOLDER / check.model
            _call(["spin", "-a", *check.spin, str(source)], place)
            limit = f"-DMEMLIM={self.memory_mb}"
            _call(["cc", *CC_FLAGS, check.states, limit, "-o", "pan", "pan.c"], place)
            self._programs[key] = place / "pan"
        return self._programs[key]


def parse(output: str, seconds: float) -> Result:
    """Read what ``pan`` prints. Errors: ``ValueError`` where it says nothing of its search."""
    found = re.search(r"depth reached (\d+), errors: (\d+)", output)
    states = re.search(r"(\d+(?:\.\d+e\+\d+)?) states, stored", output)
    memory = re.search(r"([\d.]+)\s+total actual memory usage", output)
    if found is None or states is None:
        raise ValueError(f"pan says:\n{output[-2000:]}")
    error = re.search(r"^pan:\d+: (.*) \(at depth", output, re.MULTILINE)
    complete = not re.search(r"Search not completed|max search depth too small|MEMLIM", output)
    return Result(
        (error[1] if error else "an error") if int(found[2]) else "",
        complete,
        int(float(states[1])),
        int(found[1]),
        float(memory[1]) if memory else 0.0,
        seconds,
    )


def _call(words: Sequence[str], place: Path) -> None:
    done = subprocess.run(words, cwd=place, capture_output=True, text=True)
    if done.returncode or "Error" in done.stdout:
        raise SystemExit(f"{' '.join(words)}:\n{done.stdout}{done.stderr}")


ANY = CRASHES | STORE | WITNESS | RESTORES | RECOVERIES | CLOSES
WINDOW_SHORT = ("-DTICKS=5",)
CREDIT_SHORT = (
    "-DLEASES=2",
    "-DSIZE=1",
)  # budget: raw, want: net, faults: whether the auditors are the thief's


def _credits(
    name: str, mutant: int, taken: int = 0, raw: int = 2, spin: tuple[str, ...] = CREDIT_SHORT
) -> Check:
    return Check(name, raw, 1, faults=taken, model="credit.pml", spin=spin, mutant=mutant)


SHORT = (
    Check("crashes, store, witness", faults=2, budget=1, kinds=CRASHES | STORE | WITNESS),
    Check("the same, closes, more budget", kinds=CRASHES | STORE | WITNESS | CLOSES),
    Check("the file is put back", kinds=CRASHES | RESTORES),
    Check("and recovered", budget=1, kinds=CRASHES | RESTORES | RECOVERIES),
    Check("windows", model="window.pml", spin=WINDOW_SHORT),
    Check("credits", 2, 1, faults=0, model="credit.pml", spin=CREDIT_SHORT),
    Check("every auditor taken over", 2, 1, faults=1, model="credit.pml", spin=CREDIT_SHORT),
)

MUTANTS = (
    Check("append without compare and swap", faults=2, kinds=CRASHES | STORE, mutant=1),
    Check("an unknown outcome taken for done", faults=2, kinds=CRASHES | STORE, mutant=2),
    Check("sent before the cosignature", mutant=3),
    Check("a store behind its witness accepted", faults=2, kinds=CRASHES | RESTORES, mutant=4),
    Check("another log read and leased from", faults=2, kinds=CRASHES | RESTORES, mutant=5),
    Check("witness compared by size alone", faults=2, kinds=CRASHES | RESTORES, mutant=6),
    Check("unused bytes returned after a crash", kinds=CRASHES, mutant=7),
    Check("a witness that cosigns any head", faults=2, kinds=CRASHES | RESTORES, mutant=8),
    Check("a witness that signs before it stores", kinds=CRASHES, mutant=9),
    Check("a lease settled twice", faults=2, kinds=CRASHES | STORE, mutant=11),
    Check("a replica that goes back", faults=2, kinds=CRASHES | RESTORES, mutant=12),
    Check("sent after the settlement", mutant=13),
    Check("a recovery without the gap", kinds=CRASHES | RESTORES | RECOVERIES, mutant=14),
    Check("a lease given up and handed out", faults=2, kinds=CRASHES | STORE, mutant=15),
    Check("compare and swap on the size", faults=2, kinds=CRASHES | RESTORES, mutant=16),
    Check("a dead lease handed out", kinds=CRASHES | RESTORES | RECOVERIES, mutant=17),
    Check("clocks of two machines differ", model="window.pml", spin=WINDOW_SHORT, mutant=1),
    Check("a window forgets early", model="window.pml", spin=WINDOW_SHORT, mutant=2),
    Check("outstanding leases not counted", model="window.pml", spin=WINDOW_SHORT, mutant=3),
    Check("dated by its lease", want=2, model="window.pml", spin=WINDOW_SHORT, mutant=4),
    Check("a clock that catches up", model="window.pml", spin=WINDOW_SHORT, mutant=5),
    _credits("a credit twice", 1),
    _credits("a dead lease credited", 2),
    _credits("a revoked auditor's credit", 3),
    _credits("an outstanding lease credited", 4),
    _credits("a gap that net does not count", 5),
    _credits("a credit to the raw budget", 6, raw=1),
    _credits("a new epoch credits again", 7),
    _credits("a recovery that keeps its auditor", 8),
    _credits("more than the lease used", 9, taken=1, spin=("-DLEASES=2",)),
    _credits("a lease credited twice", 10, taken=1),
)

LONG = (
    Check("any fault, twice", budget=1, faults=2, kinds=ANY, states=COMPACT),
    Check("any fault", kinds=ANY, states=COMPACT),
    Check("two faults", faults=2, kinds=CRASHES | STORE | WITNESS, states=COMPACT),
    Check("leases of two bytes", want=2, kinds=CRASHES | STORE | WITNESS, states=COMPACT),
    Check("two leases at once", held=2, kinds=CRASHES | STORE | WITNESS | CLOSES, states=COMPACT),
    Check(
        "three gates", kinds=CRASHES | STORE | WITNESS | RESTORES, states=COMPACT,
        spin=("-DGATES=3", "-DTRIES=1"),
    ),
    Check(
        "an old answer of the witness is believed", faults=2, kinds=CRASHES | RESTORES, mutant=10,
        states=COMPACT,
    ),
    Check("windows, longer", model="window.pml"),
    Check(
        "credits of leases of two bytes", 4, 3, faults=0, model="credit.pml", spin=("-DLEASES=2",),
        states=COMPACT,
    ),
    Check(
        "credits of three leases", 3, 2, faults=0, model="credit.pml", spin=("-DSIZE=1",),
        states=COMPACT,
    ),
)  # fmt: skip


def is_right(check: Check, result: Result) -> bool:
    """A mutant is caught; without one (or with a harmless one) all was searched, without error."""
    if check in MUTANTS:
        return bool(result.error)
    return not result.error and result.complete


def main() -> int:
    """Run the table; see the module's docstring."""
    if absent := missing():
        print(f"{absent} is not installed (Debian: apt-get install spin gcc)", file=sys.stderr)
        return 3
    checks = (*SHORT, *MUTANTS, *(() if "--short" in sys.argv[1:] else LONG))
    wrong = 0
    print("| run | states | depth | MB | s | result |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        checker = Checker(Path(folder), memory_mb=6_000)
        for check in checks:
            got = checker.run(check)
            wrong += not is_right(check, got)
            said = got.error or ("holds" if got.complete else "not searched to the end")
            said += "" if is_right(check, got) else " **WRONG**"
            print(
                f"| {check.name} | {got.states:,} | {got.depth:,} | {got.memory_mb:,.0f}"
                f" | {got.seconds:.1f} | {said} |",
                flush=True,
            )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
