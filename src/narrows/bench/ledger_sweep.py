"""How long a lease should last: operations and conflicts against bytes stranded by crashes.

The same gates spend the same budget with leases of different lengths. The picture is drawn by
matplotlib (the ``plots`` extra).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from narrows.bench.ledger import LedgerBench
from narrows.bench.ledger_sim import CRASH_EVERY_S, MEAN_RATE, Simulation
from narrows.errors import InputError, missing_extra

SWEEP_LEASES_S = (125.0, 250.0, 500.0, 1000.0, 2000.0)
BUDGET_S = 20_000.0
MAX_OPS_PER_S = 100.0
MIN_UTILISATION = 0.999


@dataclass(frozen=True, slots=True)
class Sweep:
    """``recommended_s``: the shortest lease whose busiest minute has at most 100 operations a
    second, with 99.9 % of the budget used; None where no lease of the sweep does both."""

    gates: int
    runs: tuple[LedgerBench, ...]
    recommended_s: float | None

    def document(self) -> dict[str, Any]:
        return asdict(self)


def sweep(
    gates: int,
    seed: int = 1,
    leases_s: Sequence[float] = SWEEP_LEASES_S,
    progress: Callable[[float], None] = lambda share: None,
) -> Sweep:
    """``progress`` gets the share of the runs that are done."""
    runs = []
    for number, lease_s in enumerate(leases_s):
        runs.append(Simulation(gates, seed, lease_s=lease_s, budget_s=BUDGET_S).run())
        progress((number + 1) / len(leases_s))
    good = [run.lease_s for run in runs if _is_good(run)]
    return Sweep(gates, tuple(runs), min(good, default=None))


def _is_good(run: LedgerBench) -> bool:
    worst = run.worst_minute_ops_per_s
    return worst is not None and worst <= MAX_OPS_PER_S and run.utilisation >= MIN_UTILISATION


def plot(result: Sweep, path: Path) -> None:
    """Write the picture; the suffix says SVG or PNG. Errors: ``InputError``."""
    try:
        import matplotlib
    except ImportError as error:
        raise missing_extra("matplotlib is not installed", "plots") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    # The same input gives the same file: no date, no random ids.
    style = {"svg.hashsalt": "narrows", "svg.fonttype": "none", "font.size": 10}
    with matplotlib.rc_context(style):
        figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(7.2, 6.4))
        _draw_operations(above, result)
        _draw_waste(below, result)
        figure.tight_layout()
        metadata = {"Date": None} if path.suffix == ".svg" else None
        try:
            figure.savefig(path, dpi=150, metadata=metadata)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot write {path}: {error}") from error
        finally:
            pyplot.close(figure)


def _draw_operations(axes: Any, result: Sweep) -> None:
    lasts = [run.lease_s for run in result.runs]
    axes.plot(lasts, [run.ledger_ops_per_s for run in result.runs], "o-", label="mean")
    worst = [run.worst_minute_ops_per_s for run in result.runs]
    axes.plot(lasts, worst, "s-", label="busiest minute")
    axes.axhline(MAX_OPS_PER_S, color="#c0293c", linewidth=1, linestyle="--", label="bar: 100")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylabel("ledger operations / s")
    axes.set_title(f"{result.gates:,} gates on one budget, {MEAN_RATE // 1000} kB/s each")
    axes.legend()


def _draw_waste(axes: Any, result: Sweep) -> None:
    lasts = [run.lease_s for run in result.runs]
    stranded = [100 * (1 - run.utilisation) for run in result.runs]
    conflicts = [100 * (run.conflict_share or 0) for run in result.runs]
    axes.plot(lasts, stranded, "o-", label="budget stranded")
    axes.plot(lasts, conflicts, "^-", label="operations within 20 ms of another gate's")
    axes.axhline(
        100 * (1 - MIN_UTILISATION),
        color="#c0293c",
        linewidth=1,
        linestyle="--",
        label="bar: 0.1 %",
    )
    axes.set_xticks(lasts, [f"{last:,.0f}" for last in lasts])
    axes.minorticks_off()
    axes.set_yscale("log")
    axes.set_ylabel("%")
    days = CRASH_EVERY_S / 86_400
    axes.set_xlabel(f"seconds of traffic in a lease (a gate crashes every {days:.0f} days)")
    axes.legend()
