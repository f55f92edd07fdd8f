"""The link codec: one entropy-coded stream for many answers (docs/link-format.md)."""

from __future__ import annotations

from narrows.coding.link.decoder import LinkDecoder, OpenAnswer
from narrows.coding.link.encoder import LinkEncoder, LinkStats
from narrows.coding.link.options import LinkLimits, LinkOptions

__all__ = ["LinkDecoder", "LinkEncoder", "LinkLimits", "LinkOptions", "LinkStats", "OpenAnswer"]
