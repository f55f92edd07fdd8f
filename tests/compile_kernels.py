"""Compile what numba compiles for the shipped weak models, and leave it in numba's cache.

Each process that finds no cache compiles for itself: about 35 s of a core, times all that start.
"""

from __future__ import annotations

from narrows.models.bytemodel import ByteModel
from narrows.models.registry import load_model


def main() -> None:
    model = load_model("default", threads=1)
    stream = model.open([1, 2, 3])
    model.logits(stream)
    model.advance([stream], [4])
    model.extend(stream, [5] * 40)
    model.close(stream)
    _ = ByteModel().numerics  # one pass over a fixed text


if __name__ == "__main__":
    main()
