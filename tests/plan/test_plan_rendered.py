"""The reports of forecast and audit as a browser shows them: nothing loaded, nothing wrong, nothing
beyond the edge of a phone, light and dark. Needs Chromium (Debian: chromium)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from audit.test_audit_page import found
from browser import CHROMIUM, WITHOUT, Page, chromium, tab
from narrows.audit.page.html import render_html as render_audit
from narrows.plan.analysis import analyse
from narrows.plan.report.html import render_html
from narrows.plan.scenario import load

SEEN = """JSON.stringify({
  wide: document.documentElement.scrollWidth, window: innerWidth,
  charts: [...document.querySelectorAll("figure > div")].filter(
    (d) => d.querySelector("svg.main-svg .scatterlayer path, svg.main-svg .barlayer path")).length,
  page: getComputedStyle(document.body).backgroundColor,
  beyond: [...document.querySelectorAll("section, figure, .tile, .verdict, .codings td")].filter(
    (e) => e.getBoundingClientRect().right > innerWidth + 1).length,
})"""


async def _look(
    socket: str, url: str, width: int, scheme: str, last: str
) -> tuple[dict[str, Any], Page]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(socket, max_msg_size=0) as connection,
    ):
        page = Page(connection)
        for domain in ("Runtime", "Log", "Network", "Page"):
            await page.call(f"{domain}.enable")
        await page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=800, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await page.call("Emulation.setEmulatedMedia", features=[feature])
        await page.call("Page.navigate", url=url)
        async with asyncio.timeout(60):
            while not await page.value(
                f'document.readyState === "complete" && !!document.querySelector("#{last} svg")'
            ):
                await asyncio.sleep(0.1)
        return json.loads(await page.value(SEEN)), page


@pytest.mark.skipif(not CHROMIUM, reason=WITHOUT)
def test_the_reports_in_a_browser(tmp_path: Path) -> None:
    """Name to its last chart, and how many there are."""
    pages = {"forecast": ("tornado", 4), "audit": ("bound", 5)}
    plan = analyse(load(None, "frontier-lab"), 2_000)
    (tmp_path / "forecast.html").write_text(render_html(plan), encoding="utf-8")
    (tmp_path / "audit.html").write_text(render_audit(found()), encoding="utf-8")
    with chromium(tmp_path / "profile") as port:
        for name, (last, charts) in pages.items():
            url = (tmp_path / f"{name}.html").as_uri()
            colors = set()
            for width, scheme in ((390, "light"), (390, "dark"), (1200, "light")):
                look = _look(asyncio.run(tab(port)), url, width, scheme, last)
                seen, page = asyncio.run(look)
                assert seen["wide"] <= seen["window"] == width
                assert seen["charts"] == charts
                assert seen["beyond"] == 0
                colors.add(seen["page"])
                for method, what in page.events:
                    assert method not in ("Runtime.exceptionThrown", "Log.entryAdded"), what
                    if method == "Network.requestWillBeSent":
                        asked = what["request"]["url"]
                        assert asked.startswith(("file:", "data:", "blob:")), what
            assert len(colors) == 2, "light and dark"
