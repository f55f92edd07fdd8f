"""The budget to give to the ledger: a lifetime cap and rolling windows, in bytes.

Windows come from the day: the busiest minute is ``burst`` times the mean one, the busiest hour
half as peaked, and a week of independent days scatters less than a day does. The lifetime cap is
what the demand needs, unless the weights would fit through that; then it is the most that keeps
19 of 20 futures safe, and the budget says how long it lasts.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from narrows.durable import write_whole
from narrows.plan import equations as eq
from narrows.plan.simulate import Forecast, median, percentiles

_LENGTHS = {"minute": "1m", "hour": "1h", "day": "1d", "week": "7d"}
STRICTLY_LESS = 1e-9  # what the weights just fit through is too much
ACCOUNTS = ("answers", "telemetry")  # a gate's ports; one that is left out would be closed
MAX_LEDGER_BYTES = 2**53 - 1  # the ledger's largest integer


@dataclass(frozen=True, slots=True)
class NetBudget:
    """As ``Budget``, for the net limit."""

    lifetime_bytes: int
    windows_bytes: dict[str, int]
    need_bytes: float
    safe_bytes: float


@dataclass(frozen=True, slots=True)
class Budget:
    """``lifetime_bytes`` and ``windows_bytes``: what to sign. ``need_bytes``: p95 of what the
    demand emits over the life; ``safe_bytes``: what may leave so that in 95 % of the futures
    the weights do not fit; ``lasts_days``: at the median demand. ``net``: of what no auditor
    explains; where there is one the raw budget only has to serve."""

    lineage: str
    lifetime_bytes: int
    windows_bytes: dict[str, int]
    need_bytes: float
    safe_bytes: float
    lasts_days: float
    net: NetBudget | None = None


def lineage_name(name: str) -> str:
    """A ledger account name: lower case, letters, digits, ``.-_``, at most 63 characters."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:63] or "model"


def recommend(result: Forecast) -> Budget:
    inputs = result.inputs
    outcome = result.outcomes[result.deployed]
    carrier = result.outcomes[result.carrier]
    payload = outcome.bits / carrier.bits
    usable = inputs["attacker.usable_share"]
    given = result.scenario.has("defender.cap")
    day = median(carrier.cap)
    need = day * median(inputs["demand.lifetime"]) if given else percentiles(carrier.outflow)[2]
    fits = percentiles(eq.safe_allowance_bytes(result.target, payload, usable, outcome.rush))[0]
    safe = fits * (1 - STRICTLY_LESS)
    net = _net(result) if result.scenario.audit else None
    lifetime = need if net is not None else min(need, safe)
    if "defender.lifetime_cap" in inputs:
        lifetime = median(inputs["defender.lifetime_cap"])
    windows = _windows(result, day)
    windows = {name: size for name, size in windows.items() if size < lifetime}
    pace = day if given else median(carrier.outflow / inputs["demand.lifetime"])
    lasts = lifetime / pace if pace > 0 else math.inf
    if net is not None:
        left = median(outcome.outflow / inputs["demand.lifetime"])
        lasts = min(lasts, net.lifetime_bytes / left if left > 0 else math.inf)
    return Budget(
        lineage_name(result.scenario.name),
        _whole(lifetime),
        windows,
        need,
        safe,
        lasts,
        net,
    )


def _net(result: Forecast) -> NetBudget:
    """The net limit holds whatever an audit explains: what it does not counts in full. How far
    it reaches is the auditor's matter."""
    outcome = result.outcomes["audited"]
    usable = result.inputs["attacker.usable_share"]
    need = percentiles(outcome.outflow)[2]
    fits = percentiles(eq.safe_allowance_bytes(result.target, 1.0, usable, outcome.rush))[0]
    safe = fits * (1 - STRICTLY_LESS)
    lifetime = min(need, safe)
    carrier = result.outcomes[result.carrier]
    windows = _windows(result, median(outcome.bits / carrier.bits * carrier.cap))
    return NetBudget(
        _whole(lifetime),
        {name: size for name, size in windows.items() if size < lifetime},
        need,
        safe,
    )


def _whole(lifetime: float) -> int:
    return max(1, math.floor(min(lifetime, MAX_LEDGER_BYTES)))


def _windows(result: Forecast, day: float) -> dict[str, int]:
    burst = median(result.inputs["defender.burst"])
    sigma = float(np.log(median(result.inputs["demand.busy_day"]))) / eq.Z_OF_DAY["p95"]
    z = eq.Z_OF_DAY[result.scenario.choices["defender.serve"]]
    week = 7 * day * math.exp(z * sigma * (1 / math.sqrt(7) - 1))
    sizes = {
        "minute": day / 1440 * burst,
        "hour": day / 24 * min(24.0, (1 + burst) / 2),
        "day": day,
        "week": min(7 * day, week),
    }
    if result.scenario.has("defender.cap"):
        del sizes["week"]  # a given cap may be used every day
    if result.scenario.windows:
        sizes = dict(result.scenario.windows)
    return {name: max(1, math.ceil(min(size, MAX_LEDGER_BYTES))) for name, size in sizes.items()}


def _table(windows: dict[str, int]) -> str:
    rows = ", ".join(f'"{length}" = {size}' for length, size in windows.items())
    return f"{{ {rows} }}" if rows else "{}"


def as_toml(budget: Budget) -> str:
    """The ``[budget]`` block: ``narrows budget propose --from`` reads it, and its last lines
    are the same as flags."""
    windows = {_LENGTHS[name]: size for name, size in budget.windows_bytes.items()}
    flags = [f"--window {length}={size}" for length, size in windows.items()]
    net = []
    if budget.net is not None:
        nets = {_LENGTHS[name]: size for name, size in budget.net.windows_bytes.items()}
        flags.append(f"--net-lifetime {budget.net.lifetime_bytes}")
        flags += [f"--net-window {length}={size}" for length, size in nets.items()]
        net = [
            f"net_lifetime_bytes = {budget.net.lifetime_bytes}",
            f"net_windows_bytes = {_table(nets)}",
        ]
    accounts = ", ".join(f'"{account}"' for account in ACCOUNTS)
    return "\n".join(
        [
            "[budget]",
            f'lineage = "{budget.lineage}"',
            f"lifetime_bytes = {budget.lifetime_bytes}",
            f"windows_bytes = {_table(windows)}",
            *net,
            f"accounts = [{accounts}]",
            f"# narrows budget propose --lineage {budget.lineage} \\",
            f"#   --lifetime {budget.lifetime_bytes} \\",
            *(f"#   {flag} \\" for flag in flags),
            *(f"#   --account {account} \\" for account in ACCOUNTS),
            "#   --out budget.json",
            "",
        ]
    )


def write_budget(budget: Budget, path: Path) -> None:
    """The block as a file. Raises InputError."""
    write_whole(path, as_toml(budget).encode())
