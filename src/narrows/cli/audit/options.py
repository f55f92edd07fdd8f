"""What the audit's commands ask alike."""

from __future__ import annotations

from typing import Annotated

import typer

ModelOption = Annotated[
    str, typer.Option(help="The strong model: smollm2-135m, an artifact, a folder or a hub id.")
]
ScorerOption = Annotated[
    str, typer.Option(help="runtime (exact) or torch (transformers, float32).")
]
WeakOption = Annotated[
    list[str] | None, typer.Option(help="Weak models of the links. Default: default.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object.")]
