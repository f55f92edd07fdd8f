"""Runs attacks, each against its charge, raw and net: ``payload <= charge + statistical error``."""

from __future__ import annotations

import math
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any

from narrows import __version__
from narrows.alarms.store import FiledAlarm
from narrows.errors import NarrowsError
from narrows.redteam.attack import Attack, Effort
from narrows.redteam.net import explained_bits
from narrows.redteam.payload import SLACK_BITS, Decoded
from narrows.redteam.site import Site, running

FAULTS = (NarrowsError, OSError, HTTPException, ValueError, LookupError, TypeError, RuntimeError)
"""Of an attack that does not run to its end: the other ones' results are kept."""
LEDGER_WINDOWS = ((2000, 40_000),)
"""Of the sites of the ``ledger`` group: 40 kB in any two seconds."""
MAX_REASON_CHARS = 300
Say = Callable[[str], None]


@dataclass
class Result:
    """One attack. ``payload_bits``: received without error; ``error_bits``: by how much that may
    be too high. ``charged_bits``: what the meters took meanwhile (for an attack that outlives its
    gate, what the ledger lost). ``net_charged_bits``: after an audit, which follows when all have
    run; None for the ledger's group. ``broken``: what was seen to be broken besides; empty where
    nothing was. ``failed``: why it did not run to its end; nothing is known then. ``alarms``: what
    rang for its API key, or for all while it ran, as ``narrows alarms list --json`` says it;
    ``after_s``: seconds from its beginning, by a clock of whole seconds.
    ``secret_bits``: what there was to say."""

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
    failed: str = ""
    note: str = ""
    net_charged_bits: int | None = None
    secret_bits: int = 1 << 30

    @property
    def ratio(self) -> float | None:
        return self.payload_bits / self.charged_bits if self.charged_bits else None

    @property
    def vulnerable(self) -> bool:
        charge = self.charged_bits
        if self.net_charged_bits is not None:
            charge = min(charge, self.net_charged_bits)
        slack_bits = min(SLACK_BITS, self.secret_bits / 2)  # else a short secret could never fail
        return bool(self.broken) or self.payload_bits > charge + self.error_bits + slack_bits


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

    @property
    def failures(self) -> list[Result]:
        return [result for result in self.results if result.failed]

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
            "failures": [result.name for result in self.failures],
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
    groups = [[one for one in attacks if not _own_site(one)]]
    groups += [[one] for one in attacks if _own_site(one)]
    with tempfile.TemporaryDirectory(prefix="narrows-redteam-") as folder:
        for number, group in enumerate(groups):
            if seconds is not None and time.monotonic() - began_s > seconds:
                campaign.skipped += [one.name for one in group]
                continue
            if not group:
                continue
            say("starting its processes")
            own = _own_site(group[0])
            windows = LEDGER_WINDOWS if own else ()
            place = Path(folder) / str(number)
            with running(place, isolated=isolated, edge=not own, windows=windows) as site:
                trials = []
                for attack in group:
                    if seconds is not None and time.monotonic() - began_s > seconds:
                        campaign.skipped.append(attack.name)
                        continue
                    say(attack.name)
                    trials.append(_one(site, attack, Effort(seed, scale)))
                    campaign.results.append(trials[-1].result)
                    heard(trials[-1].result)
                _attribute(site.alarms(), trials)
                if not own:
                    _explain(site, trials)
    campaign.seconds = time.monotonic() - began_s
    return campaign


def _own_site(attack: Attack) -> bool:
    return attack.group == "ledger"


@dataclass
class _Trial:
    result: Result
    key: int
    began_s: float
    ended_s: float


def _attribute(alarms: Sequence[FiledAlarm], trials: Sequence[_Trial]) -> None:
    """To the attack whose API key it names; what is about all keys, to the one that ran then."""
    for alarm in alarms:
        for trial in trials:
            ran = int(trial.began_s) <= alarm.raised_s <= trial.ended_s
            if alarm.subject == trial.key or (alarm.subject < 0 and ran):
                after_s = max(0.0, alarm.raised_s - trial.began_s)
                figures = alarm.figures() | {"after_s": round(after_s, 1)}
                trial.result.alarms.append(figures)


def _explain(site: Site, trials: Sequence[_Trial]) -> None:
    """An attack's charge net of what an audit explains of its answers."""
    try:
        explained = explained_bits(*site.tape())
    except (NarrowsError, OSError) as error:
        for trial in trials:
            trial.result.failed = trial.result.failed or f"not audited: {error}"[:MAX_REASON_CHARS]
        return
    for trial in trials:
        bits = max(0, math.floor(explained.get(trial.key, 0.0)))
        trial.result.net_charged_bits = trial.result.charged_bits - bits


def _one(site: Site, attack: Attack, effort: Effort) -> _Trial:
    by_ledger = attack.by_ledger
    charge = site.spent_bits if by_ledger else site.metered_bits
    key = site.new_key(attack.name)
    before = site.settled_bits() if by_ledger else charge()

    def learned() -> None:
        nonlocal before
        before = charge()

    effort.learned = learned
    started_s, began_s = time.time(), time.monotonic()
    failed = ""
    try:
        decoded = attack.run(site, effort)
    except FAULTS as error:
        decoded, failed = Decoded([], []), f"{type(error).__name__}: {error}"[:MAX_REASON_CHARS]
    finally:
        site.inside.reset()
    seconds = time.monotonic() - began_s
    charged_bits = decoded.charged_bits
    if charged_bits is None:
        charged_bits = charge() - before
    result = Result(
        attack.name,
        attack.group,
        attack.title,
        attack.parts["Sees"],
        attack.parts["Decodes"],
        attack.parts["Charged"],
        round(decoded.bits, 2),
        round(decoded.error_bits, 2),
        charged_bits,
        round(seconds, 2),
        [],
        decoded.broken,
        failed,
        decoded.note,
        secret_bits=len(decoded.sent),
    )
    return _Trial(result, key, started_s, time.time())
