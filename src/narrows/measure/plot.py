"""The compression–compute frontier as a picture: bits per byte against speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from narrows.errors import InputError, missing_extra


def draw(report: dict[str, Any], path: Path) -> None:
    """Write the picture of ``compare``'s report; matplotlib takes its kind from the suffix.
    InputError: no matplotlib, a kind that it does not know, or a place that cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("a plot needs matplotlib", "plots") from error
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    models = report["models"]
    for model in models:
        spread = [
            [model["bits_per_byte"] - model["low"]],
            [model["high"] - model["bits_per_byte"]],
        ]
        at = (model["text_bytes_s"], model["bits_per_byte"])
        axes.errorbar(at[:1], at[1:], yerr=spread, fmt="o", capsize=4, color="C0")
        axes.annotate(model["name"], at, xytext=(6, 6), textcoords="offset points")
    line = [models[index] for index in report["frontier"]]
    speeds, bits = ([m[name] for m in line] for name in ("text_bytes_s", "bits_per_byte"))
    axes.plot(speeds, bits, "--", color="C1", zorder=0)
    axes.set_xscale("log")
    axes.set_xlabel("bytes of text a second, one end")
    axes.set_ylabel("bits per byte, all included (95 % by answer)")
    axes.set_title(f"{report['answers']} answers; dashed: what no other model beats")
    axes.grid(alpha=0.3)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {path}: {error}", "use .png, .svg or .pdf") from error
