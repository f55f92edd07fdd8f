"""The ``narrows`` command.

A ``NarrowsError`` ends it with the message, all problems, the remedy and the error's exit
code, and so does what the machine refuses (``machine``); anything else is a bug and keeps its
traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from narrows import __version__, logs
from narrows.cli.dispatch import CommandTable
from narrows.cli.extras import missing_extra
from narrows.cli.machine import machine_error
from narrows.errors import InputError, NarrowsError

app = CommandTable(
    summary="Serve a language model through a link too narrow for its weights.",
    commands={
        "up": ("narrows.cli.up", "Run all roles on this machine and serve."),
        "status": ("narrows.cli.status", "Budget granted, spent and left; answers and ratio."),
        "enclave": ("narrows.cli.enclave", "The role that holds the strong model."),
        "gate": ("narrows.cli.gate", "The role that meters every byte that leaves."),
        "edge": ("narrows.cli.edge", "The role that serves the API outside."),
        "metrics": ("narrows.cli.metrics.command", "Figures of all roles, for Prometheus."),
        "telemetry": ("narrows.cli.telemetry", "The enclave's logs, through the gate."),
        "witness": ("narrows.cli.ledger.witness", "The witness that cosigns the ledger's heads."),
        "alarms": ("narrows.cli.alarms.table", "What the edge's detectors found; acknowledge it."),
        "init": ("narrows.cli.init", "Make the keys and the configuration of a deployment."),
        "key": ("narrows.cli.key", "API keys of the edge, operator keys of the budget."),
        "budget": ("narrows.cli.ledger.budget", "Show, propose, sign and apply budgets."),
        "ledger": ("narrows.cli.ledger.ledger", "Back up, restore and recover the ledger."),
        "log": ("narrows.cli.ledger.log", "Verify the ledger's append-only log offline."),
        "weak": ("narrows.cli.weak.table", "Import, inspect, check, train, compare weak models."),
        "forecast": (
            "narrows.cli.forecast",
            "Normal demand, days left, caps, and is it normal now.",
        ),
        "plan": ("narrows.cli.plan.table", "Forecast: will an upload limit protect this model?"),
        "tape": ("narrows.cli.tape.table", "Carry a gate's tape to another machine's auditor."),
        "audit": ("narrows.cli.audit.table", "Recompute what left; charge what none explains."),
        "redteam": ("narrows.cli.redteam.table", "Attack it, against what each attack is charged."),
        "bench": ("narrows.cli.bench.table", "Measure the parts, each against its peers."),
    },
    epilog=(
        "Examples:\n"
        "  narrows up                              serve at http://127.0.0.1:8400/v1\n"
        "  narrows status --watch                  what has left, what may still leave\n"
        "  narrows plan --preset llama-3.1-405b    would a limit protect this model?\n"
        "\n"
        "narrows help COMMAND, or COMMAND -h: what a command does and takes.\n"
        "narrows --install-completion: the shell completes commands and options."
    ),
)

COMPLETE = "_NARROWS_COMPLETE"  # what the shell's completion, once installed, calls narrows with


def report(error: NarrowsError) -> None:
    """Print an error as every command does: what happened, all problems, what to do."""
    if logs.as_error_line("") is not None:
        problems = error.problems if isinstance(error, InputError) else ()
        said = "; ".join(filter(None, (error.message, *problems, error.remedy)))
        typer.echo(logs.as_error_line(said), err=True)
        return
    typer.echo(f"narrows: {error.message}", err=True)
    if isinstance(error, InputError):
        for problem in error.problems:
            typer.echo(f"  {problem}", err=True)
    if error.remedy:
        typer.echo(f"  {error.remedy}", err=True)


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--version"]:
        typer.echo(f"narrows {__version__}")
        return
    try:
        if COMPLETE in os.environ or words[:1] in (["--install-completion"], ["--show-completion"]):
            app.tree()(args=words, prog_name="narrows")
        else:
            app(words)
    except Exception as error:
        said = _said(error, words)
        if said is None:
            raise
        report(said)
        sys.exit(said.exit_code)


def _said(error: Exception, words: list[str]) -> NarrowsError | None:
    """The error to show in the place of ``error``; None for a bug."""
    if isinstance(error, NarrowsError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return missing_extra(error, words)
    return machine_error(error)


if __name__ == "__main__":
    main()
