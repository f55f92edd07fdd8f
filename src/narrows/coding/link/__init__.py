"""The link codec: one entropy-coded stream for many answers (docs/link-format.md).

Bare, so that the options cost no kernel: ``encoder`` and ``decoder`` are its two ends.
"""
