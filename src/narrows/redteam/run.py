"""Runs attacks, each against its charge: ``payload <= charged + statistical error``."""

from __future__ import annotations

import contextlib
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from narrows import __version__
from narrows.redteam.attack import Attack, Effort
from narrows.redteam.payload import SLACK_BITS, Decoded
from narrows.redteam.site import Site, running

LEDGER_WINDOWS = ((2000, 40_000),)
"""Of the sites of the ``ledger`` group: 40 kB in any two seconds."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """One attack. ``payload_bits``: received without error; ``error_bits``: by how much that may
    be too high. ``charged_bits``: what the meters took meanwhile (for an attack that outlives its
    gate, what the ledger lost). ``net_charged_bits``: after an audit, None without. ``broken``:
    what was seen to be broken besides; empty where nothing was."""

    name: str
    group: str
    title: str
    sees: str
    decodes: str
    charged: str
    payload_bits: float
    error_bits: float
    charged_bits: int
    seconds: float
    alarms: list[Any]
    broken: str = ""
    note: str = ""
    net_charged_bits: int | None = None

    @property
    def ratio(self) -> float | None:
        return self.payload_bits / self.charged_bits if self.charged_bits else None

    @property
    def vulnerable(self) -> bool:
        return bool(self.broken) or (
            self.payload_bits > self.charged_bits + self.error_bits + SLACK_BITS
        )


@dataclass
class Campaign:
    """All attacks of one run. ``skipped``: names for which no time was left."""

    seed: int
    scale: float
    isolated: bool
    started: str
    seconds: float = 0.0
    results: list[Result] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def vulnerabilities(self) -> list[Result]:
        return [result for result in self.results if result.vulnerable]

    def as_json(self) -> dict[str, Any]:
        rows = [
            asdict(result) | {"ratio": result.ratio, "vulnerable": result.vulnerable}
            for result in self.results
        ]
        return {
            "version": 1,
            "started": self.started,
            "seconds": round(self.seconds, 1),
            "seed": self.seed,
            "scale": self.scale,
            "isolated": self.isolated,
            "slack_bits": SLACK_BITS,
            "versions": self.versions,
            "attacks": rows,
            "skipped": self.skipped,
            "vulnerabilities": [result.name for result in self.vulnerabilities],
        }


def run(
    attacks: Sequence[Attack],
    seed: int,
    *,
    scale: float = 1.0,
    isolated: bool = False,
    seconds: float | None = None,
    say: Say = lambda text: None,
    heard: Callable[[Result], None] = lambda result: None,
) -> Campaign:
    """Run them in order. ``seconds``: begin none later than that. ``say`` hears what is done,
    ``heard`` each result. Errors: PeerError where a role does not start, InputError."""
    campaign = Campaign(seed, scale, isolated, datetime.now(UTC).isoformat(timespec="seconds"))
    campaign.versions = {
        "narrows": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
    began_s = time.monotonic()
    left = list(attacks)
    with tempfile.TemporaryDirectory(prefix="narrows-redteam-") as folder:
        for kind in ("shared", "own"):
            with contextlib.ExitStack() as stack:
                site: Site | None = None
                for attack in [one for one in left if _own_site(one) == (kind == "own")]:
                    if seconds is not None and time.monotonic() - began_s > seconds:
                        campaign.skipped.append(attack.name)
                        continue
                    if site is None or kind == "own":
                        stack.close()
                        say("starting witness, gate and edge")
                        place = Path(folder) / f"{kind}-{len(campaign.results)}"
                        site = stack.enter_context(_site(place, isolated, kind == "own"))
                    say(attack.name)
                    result = _one(site, attack, Effort(seed, scale))
                    campaign.results.append(result)
                    heard(result)
    campaign.seconds = time.monotonic() - began_s
    return campaign


def _own_site(attack: Attack) -> bool:
    return attack.group == "ledger"


@contextlib.contextmanager
def _site(place: Path, isolated: bool, own: bool) -> Iterator[Site]:
    windows = LEDGER_WINDOWS if own else ()
    with running(place, isolated=isolated, edge=not own, windows=windows) as site:
        yield site


def _one(site: Site, attack: Attack, effort: Effort) -> Result:
    charge = site.spent_bits if attack.by_ledger else site.metered_bits
    before, began_s = charge(), time.monotonic()
    try:
        reading: Decoded = attack.run(site, effort)
    finally:
        site.inside.reset()
    seconds = time.monotonic() - began_s
    charged_bits = reading.charged_bits
    if charged_bits is None:
        charged_bits = charge() - before
    return Result(
        attack.name,
        attack.group,
        attack.title,
        attack.parts["Sees"],
        attack.parts["Decodes"],
        attack.parts["Charged"],
        round(reading.bits, 2),
        round(reading.error_bits, 2),
        charged_bits,
        round(seconds, 2),
        [],
        reading.broken,
        reading.note,
    )
