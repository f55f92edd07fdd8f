"""What the audit's commands share: tapes of any length, and the links' weak models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from narrows.audit.auditor import TapeAuditor
from narrows.durable import open_once
from narrows.errors import InputError
from narrows.models.api import TokenModel
from narrows.models.registry import load_model

READ_BYTES = 1 << 20


def weak_models(names: list[str] | None) -> dict[bytes, TokenModel]:
    """By digest; the default one where none is named."""
    models = [load_model(name) for name in names or ["default"]]
    return {model.digest: model for model in models}


@contextmanager
def opened_tape(tape: Path) -> Iterator[Callable[[TapeAuditor], None]]:
    """A tape, opened before a model is loaded for it; what is given passes all of it through an
    auditor, to its end, once. InputError: unreadable, or refused."""
    try:
        with open_once(tape) as file:

            def read(auditor: TapeAuditor) -> None:
                while data := file.read(READ_BYTES):
                    auditor.feed(data)
                auditor.replay.close()

            yield read
    except OSError as error:
        raise InputError(f"cannot read {tape}: {error.strerror or error}") from error
