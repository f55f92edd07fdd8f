"""The link codec: one entropy-coded stream for many answers (docs/link-format.md)."""

from __future__ import annotations

from narrows.coding.link_decoder import LinkDecoder, OpenAnswer
from narrows.coding.link_encoder import LinkEncoder, LinkStats
from narrows.coding.link_options import LinkLimits, LinkOptions

__all__ = ["LinkDecoder", "LinkEncoder", "LinkLimits", "LinkOptions", "LinkStats", "OpenAnswer"]
