"""A campaign for a terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from narrows.redteam.run import Campaign, Result


def verdict(result: Result) -> str:
    """``vulnerability``, or ``paid``, or ``nothing left`` where no bit was received; ``did not
    run`` where it failed."""
    if result.vulnerable:
        return "vulnerability"
    if result.failed:
        return "did not run"
    return "paid" if result.payload_bits > result.error_bits else "nothing left"


def payload_text(result: Result) -> str:
    error = f" ± {result.error_bits:,.1f}" if result.error_bits else ""
    return f"{result.payload_bits:,.0f}{error}"


def net_text(result: Result) -> str:
    """The charge net of an audit."""
    return "–" if result.net_charged_bits is None else f"{result.net_charged_bits:,}"


def ratio_text(result: Result) -> str:
    """Payload over charge."""
    return "–" if result.ratio is None else f"{result.ratio:.3f}"


def table(campaign: Campaign) -> Table:
    """A row for each attack."""
    grid = Table(box=None, padding=(0, 2, 0, 0))
    grid.add_column("attack", style="bold")
    for name in ("payload bits", "charged bits", "net", "ratio", "seconds"):
        grid.add_column(name, justify="right")
    grid.add_column("alarms")
    grid.add_column("")
    for result in campaign.results:
        word = verdict(result)
        grid.add_row(
            result.name,
            payload_text(result),
            f"{result.charged_bits:,}",
            net_text(result),
            ratio_text(result),
            f"{result.seconds:.1f}",
            alarms_text(result),
            Text(word, style="bold red" if result.vulnerable else "dim"),
        )
    return grid


def alarms_text(result: Result) -> str:
    """Detectors and when they rang; empty where none did."""
    return ", ".join(f"{one['detector']} after {one['after_s']:g} s" for one in result.alarms)


def closing(campaign: Campaign) -> Text:
    """What it comes to."""
    if campaign.skipped:
        rest = f" Not begun for want of time: {', '.join(campaign.skipped)}."
    else:
        rest = ""
    lines = [
        f"vulnerability: {one.name}: {one.broken or 'more arrived than was charged'}"
        for one in campaign.vulnerabilities
    ]
    lines += [f"did not run: {one.name}: {one.failed}" for one in campaign.failures]
    ran = len(campaign.results) - len(campaign.failures)
    if campaign.vulnerabilities:
        lines.append(f"seed {campaign.seed}; report it: SECURITY.md.{rest}")
    else:
        lines.append(f"{ran} attacks ran, none beat its charge (seed {campaign.seed}).{rest}")
    return Text("\n".join(lines))
