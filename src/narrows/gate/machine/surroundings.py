"""What the gate's machine is, looked at every second: its cards, cores, filter and switches.

From it follow the standing cost (standing.py) and whether anything may leave at all. A machine
that stops being as it must be ends the links, with reason ``machine``; when it is so again, links
open again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from narrows.errors import InputError, PeerError
from narrows.gate.backstop.nft import Nft
from narrows.gate.config import GateConfig
from narrows.gate.machine.cores import Roots, shared_cores
from narrows.gate.machine.devices import Cards, find_cards
from narrows.gate.machine.precondition import Ruleset, list_rules, machine_fault

# bounds of the channel that load is, as measured: docs/timing.md
APART_MILLIBITS_PER_S, SHARED_MILLIBITS_PER_S = 500, 50_000


@dataclass(frozen=True, slots=True)
class View:
    """``bound_millibits_per_s``: what load can carry here; ``millibits_per_s``: what is charged;
    ``shared``: why the cores are not apart, empty where they are or no card is in use;
    ``fault``: what else is not as it must be; ``refusal``: why nothing may leave, or empty."""

    cards: Cards
    bound_millibits_per_s: int
    millibits_per_s: int
    shared: str
    fault: str
    refusal: str


class Surroundings:
    """``look`` from one thread at a time. ``say`` hears every change, once."""

    def __init__(
        self,
        config: GateConfig,
        say: Callable[[str], None] = lambda text: None,
        roots: Roots | None = None,
        find: Callable[[GateConfig], Cards] = find_cards,
        rules: Callable[[], Ruleset] | None = None,
    ) -> None:
        self._config, self._say, self._find = config, say, find
        self._roots = roots or Roots()
        self._rules = rules or self._kernel_rules
        self._nft: Nft | None = None
        self._said: dict[str, str] = {}

    def start(self) -> View:
        """The first look. ``InputError``: this gate must not start here, and why."""
        view = self.look()
        if view.refusal:
            raise InputError(f"this machine lets more out than the gate counts: {view.refusal}")
        wanted = self._configured_millibits
        if wanted is not None and wanted < view.bound_millibits_per_s:
            raise InputError(
                f"[gate] ambient_bits_per_s is {self._config.ambient_bits_per_s}, and here load "
                f"can carry {view.bound_millibits_per_s / 1000:g} bit/s",
                'leave it at "auto"' + (f", or mend this: {view.shared}" if view.shared else ""),
            )
        return view

    def look(self) -> View:
        try:
            cards, lost = self._find(self._config), ""
        except PeerError as error:
            cards, lost = Cards((), (), True), error.message
        shared, fault = lost or self._shared(cards), lost or self._fault(cards)
        bound = 0
        if cards.beyond:
            bound = SHARED_MILLIBITS_PER_S if shared else APART_MILLIBITS_PER_S
        refusal = fault if self._config.machine == "refuse" else ""
        if shared and cards.two and self._config.cores == "refuse":
            refusal = refusal or (
                f"the enclave's load shows outside: {shared}; put the enclave's card on a core of "
                'its own (docs/deploy.md), or set [gate] cores = "warn"'
            )
        self._tell("cores", shared, "the cores of the enclave's card are apart again")
        self._tell("machine", fault, "the machine is as it must be again")
        charged = max(bound, self._configured_millibits or 0)
        return View(cards, bound, charged, shared, fault, refusal)

    def close(self) -> None:
        if self._nft is not None:
            self._nft.close()

    @property
    def _configured_millibits(self) -> int | None:
        value = self._config.ambient_bits_per_s
        return None if isinstance(value, str) else math.ceil(value * 1000)

    def _shared(self, cards: Cards) -> str:
        if not cards.beyond:
            return ""
        if not cards.two:
            return "enclave or edges are on this machine"
        if self._config.cores == "off":
            return "the cores are not looked at"
        return shared_cores(cards.inner, cards.outer, self._roots)

    def _fault(self, cards: Cards) -> str:
        if not cards.two:
            return ""
        dialled = {(port.enclave_host, port.enclave_port) for port in self._config.ports}
        return machine_fault(cards.inner, cards.outer, dialled, self._roots, self._rules)

    def _kernel_rules(self) -> Ruleset:
        if self._nft is None:
            self._nft = Nft()
        return list_rules(self._nft)

    def _tell(self, what: str, text: str, over: str) -> None:
        if text != self._said.get(what, ""):
            self._say(f"{what}: {text or over}")
            self._said[what] = text
