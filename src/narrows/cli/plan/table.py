"""``narrows plan``: forecasts. Works alone: no server, no model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import typer

from narrows.cli.plan import forecast as plan_forecast
from narrows.cli.plan import weights as plan_weights


@dataclass(frozen=True)
class _PlanApp:
    """The forecast itself takes a FILE, so the subcommands are words in front of it; a file
    named like one of them is given as ./compare."""

    subcommands: dict[str, typer.Typer]

    def __call__(self, args: Sequence[str] | None = None, prog_name: str = "narrows plan") -> None:
        words = list(sys.argv[1:] if args is None else args)
        if words and words[0] in self.subcommands:
            self.subcommands[words[0]](args=words[1:], prog_name=f"{prog_name} {words[0]}")
        else:
            plan_forecast.forecast_app(args=words, prog_name=prog_name)


app = _PlanApp(
    {
        "compare": plan_forecast.compare_app,
        "sweep": plan_forecast.sweep_app,
        "weights": plan_weights.app,
    }
)
