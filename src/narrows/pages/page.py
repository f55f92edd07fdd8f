"""A report with pictures in one file that loads nothing.

The page carries plotly's script inside and a Content-Security-Policy that forbids any request.
Everything that is put into it is escaped, in text by the template and in the script by hand: a
prompt, a scenario's name and a report that somebody sent are an attacker's.

Figures are plain JSON, no import of plotly. Colours are names (``$danger``, ``$grid`` …) that the
page resolves from its style sheet, so one figure serves light and dark.
"""

from __future__ import annotations

import json
from importlib import resources

from narrows.errors import missing_extra

Json = dict[str, object]


def layout(height: int, **more: object) -> Json:
    """A figure's layout, ``height`` in pixels; ``more`` comes over it."""
    return {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "$ink"},
        "hoverlabel": {"bgcolor": "$card", "bordercolor": "$grid", "font": {"color": "$ink"}},
        "showlegend": False,
        "dragmode": False,
        **more,
    }


def script(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def render(template: str, figures: Json, **values: object) -> str:
    """The page, about 5 MB of which all but 50 kB is plotly's script. ``template`` extends
    ``base`` (title, heading, verdict, level, tiles, charts, footer), which draws each of
    ``figures`` into the element of its name. Raises InputError where plotly is not installed."""
    import jinja2

    try:
        plotly = (resources.files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise missing_extra("the page needs plotly", "plan") from error
    base = (resources.files("narrows.pages") / "base.html.j2").read_text("utf-8")
    loader = jinja2.DictLoader({"base": base, "page": template})
    page = jinja2.Environment(autoescape=True, loader=loader).get_template("page")
    return page.render(figures=script(figures), plotly=plotly, **values)
