"""What the audit's commands share: tapes of any length, and the links' weak models."""

from __future__ import annotations

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


def read_tape(auditor: TapeAuditor, tape: Path) -> None:
    """All of a tape through an auditor, to its end. InputError: unreadable, or refused."""
    try:
        with open_once(tape) as file:
            while data := file.read(READ_BYTES):
                auditor.feed(data)
    except OSError as error:
        raise InputError(f"cannot read {tape}: {error.strerror or error}") from error
    auditor.replay.close()
