"""``redteam.html``: one page that loads nothing, for someone who was not there."""

from __future__ import annotations

from importlib import resources
from itertools import groupby
from pathlib import Path

from narrows.durable import write_whole
from narrows.redteam.attack import GROUPS
from narrows.redteam.payload import SLACK_BITS
from narrows.redteam.report.text import alarms_text, net_text, payload_text, ratio_text, verdict
from narrows.redteam.run import Campaign, Result

TITLES = {
    "tokens": "In the choice of tokens",
    "structure": "In what surrounds the text",
    "link": "In the form of the stream",
    "moments": "In moments, ends and delays",
    "roles": "Through other ports",
    "ledger": "By restarts, clocks and windows",
}


def render_html(campaign: Campaign) -> str:
    """The page."""
    import jinja2

    template = (resources.files("narrows.redteam.report") / "redteam.html.j2").read_text("utf-8")
    results = sorted(campaign.results, key=lambda one: GROUPS.index(one.group))
    groups = [
        {"title": TITLES[group], "attacks": [_shown(one) for one in part]}
        for group, part in groupby(results, key=lambda one: one.group)
    ]
    bad = campaign.vulnerabilities
    highest = max((one.ratio or 0.0 for one in campaign.results), default=0.0)
    return (
        jinja2.Environment(autoescape=True)
        .from_string(template)
        .render(
            campaign=campaign,
            groups=groups,
            bad=[one.name for one in bad],
            level="broken" if bad else "held",
            highest=f"{highest:.3f}",
            slack=f"{SLACK_BITS:g}",
            payload=f"{sum(one.payload_bits for one in campaign.results):,.0f}",
            charged=f"{sum(one.charged_bits for one in campaign.results):,}",
            started=f"{campaign.started[:10]} {campaign.started[11:16]} UTC",
            where="network namespaces, with the standing charge"
            if campaign.isolated
            else "without the standing charge",
        )
    )


def _shown(result: Result) -> dict[str, object]:
    width = min(1.0, result.ratio or 0.0) * 100
    return {
        "result": result,
        "payload": payload_text(result),
        "charged": f"{result.charged_bits:,}",
        "net": net_text(result),
        "ratio": ratio_text(result),
        "verdict": verdict(result),
        "alarms": alarms_text(result) or "none",
        "width": f"{width:.1f}",
    }


def write_html(campaign: Campaign, path: Path) -> None:
    """The report as a file. Raises InputError."""
    write_whole(path, render_html(campaign).encode())
