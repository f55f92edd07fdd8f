"""What the exporter is told: the section ``[metrics]``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from narrows.config import out_of_range
from narrows.errors import InputError
from narrows.wire.address import is_loopback, parse_address

MAX_SAMPLE_S = 3600.0


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """``listen``: where Prometheus scrapes. ``sample_s``: the figures are read every so many
    seconds, and a scrape gets what was read last. ``per_key``: show figures by API key too.
    ``telemetry``: HOST:PORT of the gate's port for it, empty: the enclave is not read; what it
    says there is charged. ``token_file``: holds the word that a scrape has to bring as its bearer
    token; without one the exporter listens on loopback alone."""

    listen: str = "127.0.0.1:8412"
    sample_s: float = 15.0
    per_key: bool = False
    telemetry: str = ""
    token_file: Path | None = None

    def check(self) -> MetricsConfig:
        """Itself, or ``InputError`` with every problem."""
        problems = out_of_range([("sample_s", self.sample_s, 0.2, MAX_SAMPLE_S)])
        for name, text in (("listen", self.listen), ("telemetry", self.telemetry)):
            try:
                host = parse_address(text)[0] if text else "127.0.0.1"
            except InputError as error:
                problems.append(f"{name}: {error.message}")
                continue
            if name == "listen" and self.token_file is None and not is_loopback(host):
                problems.append(f"listen is {text}: beyond loopback a token_file is needed")
        if problems:
            raise InputError("the exporter's configuration is wrong", problems=tuple(problems))
        return self
