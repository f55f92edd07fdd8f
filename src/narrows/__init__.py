"""narrows: a language model served through a link too narrow for its weights.

What researchers import first; everything else may change from version to version:

    compress, decompress    texts under a weak model, as bytes
    LinkEncoder, LinkDecoder    the two ends of a link (docs/link-format.md)
    load_model              a weak model by name or file
    forecast                what ``narrows plan`` reports, of a preset or a scenario file

Each is imported when it is first used: ``import narrows`` costs nothing and needs no extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from narrows.coding.link.decoder import LinkDecoder
    from narrows.coding.link.encoder import LinkEncoder
    from narrows.models.registry import load_model
    from narrows.plan.analysis import forecast
    from narrows.texts import compress, decompress

__version__ = "0.1.0"

__all__ = [
    "LinkDecoder",
    "LinkEncoder",
    "compress",
    "decompress",
    "forecast",
    "load_model",
]

_HOME = {
    "compress": ("narrows.texts", "compress"),
    "decompress": ("narrows.texts", "decompress"),
    "LinkEncoder": ("narrows.coding.link.encoder", "LinkEncoder"),
    "LinkDecoder": ("narrows.coding.link.decoder", "LinkDecoder"),
    "load_model": ("narrows.models.registry", "load_model"),
    "forecast": ("narrows.plan.analysis", "forecast"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'narrows' has no attribute {name!r}")
    import importlib

    module, attribute = _HOME[name]
    return getattr(importlib.import_module(module), attribute)
