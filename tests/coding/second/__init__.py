"""A second implementation of the decoding end, written from docs/link-format.md and
docs/token-code.md, in plain Python integers: to be read beside the pages, not to be fast.

It shares no code with ``narrows.coding``. It decodes a whole byte string at once and stops where
the bytes decide no more.
"""
