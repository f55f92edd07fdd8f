"""``narrows plan``: forecasts. Works alone: no server, no model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import typer

from narrows.cli.dispatch import only_command, run
from narrows.cli.plan import forecast as plan_forecast
from narrows.cli.plan import weights as plan_weights


@dataclass(frozen=True)
class _PlanApp:
    """The forecast itself takes a FILE, so the subcommands are words in front of it; a file
    named like one of them is given as ./compare."""

    subcommands: dict[str, typer.Typer]

    def __call__(self, args: Sequence[str] | None = None, prog_name: str = "narrows plan") -> None:
        words = list(sys.argv[1:] if args is None else args)
        if words[:1] == ["help"]:
            words = [*words[1:], "--help"]
        if words and words[0] in self.subcommands:
            run(self.subcommands[words[0]], words[1:], f"{prog_name} {words[0]}")
        else:
            run(plan_forecast.forecast_app, words, prog_name)

    def tree(self) -> typer.Typer:
        """As a ``CommandTable`` has it; the forecast's own options are those of the group."""
        whole = typer.Typer()
        if (forecast := only_command(plan_forecast.forecast_app)) is not None:
            whole.callback(invoke_without_command=True)(forecast)
        for name, app in self.subcommands.items():
            if (callback := only_command(app)) is not None:
                whole.command(name)(callback)
        return whole


app = _PlanApp(
    {
        "compare": plan_forecast.compare_app,
        "sweep": plan_forecast.sweep_app,
        "weights": plan_weights.app,
    }
)
