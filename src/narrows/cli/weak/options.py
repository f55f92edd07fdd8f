"""What the commands that make weak models share: their options, and what they need."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from narrows.errors import missing_extra

NameOption = Annotated[str, typer.Option("--name", help="The model's name.")]
LicenceOption = Annotated[str, typer.Option("--licence", help="Licence, for the provenance.")]
SourcesOption = Annotated[str, typer.Option("--sources", help="Where the prompts come from.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=0, help="0: all processors.")]


def provenance(licence: str, sources: str) -> dict[str, str]:
    """What a command knows of an artifact's making. The command is as it was typed, paths
    shortened to their last part."""
    words = ["narrows", *(a.rpartition("/")[2] or a for a in sys.argv[1:])]
    return {"license": licence, "prompt_sources": sources, "command": shlex.join(words)}


@contextlib.contextmanager
def training_extra(threads: int = 0) -> Iterator[None]:
    """For the imports of ``narrows.training``: InputError where the extra packages are missing.
    Then torch has ``threads`` threads (0: as it likes)."""
    try:
        yield
    except ImportError as error:
        raise missing_extra(f"training needs {error.name}", "train") from error
    if threads:
        import torch

        torch.set_num_threads(threads)
