"""What an enclave is told. Everything has a default; light, since every role reads the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """Where the server is and how long it may take. ``url`` ends in ``/v1``."""

    url: str
    model: str
    api_key: str = ""
    connect_timeout_s: float = 10.0
    first_token_timeout_s: float = 120.0
    token_timeout_s: float = 60.0
    answer_timeout_s: float = 1800.0
    max_line_bytes: int = 1 << 20
    max_answer_bytes: int = 16 << 20


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """``max_answers``: open at once on this link; the edge must keep below it."""

    hello_timeout_s: float = 30.0
    max_answers: int = 1024


@dataclass(frozen=True, slots=True)
class IsolatedConfig:
    """For ``narrows up --isolated`` alone. ``command``: the upstream server's, run inside, beside
    the enclave. ``files``: what it may read, ``devices``: character devices it may use; both
    keep their path."""

    command: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    devices: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class EnclaveConfig:
    """Section ``[enclave]``.

    ``listen``: where the gate connects. ``model``: the built-in strong model's name or artifact,
    used unless ``upstream`` names a server. ``weak``: weak models this enclave can code with, by
    name or path. ``weak_folder``: a folder of further ones, watched while the enclave runs.
    ``operators``: public keys, 64 hex digits; where there are any, only weak models that one of
    them signed are loaded (docs/weak-models.md).
    ``kv_mib``: bound of the strong model's cache. ``max_links``: connections at once.
    ``telemetry``: where the gate's telemetry port connects, empty for none; every
    ``telemetry_s`` seconds what is new is sent.
    """

    listen: str = "127.0.0.1:8401"
    model: str = "smollm2-135m"
    upstream: UpstreamConfig | None = None
    weak: tuple[str, ...] = ("default",)
    weak_folder: Path | None = None
    operators: tuple[str, ...] = ()
    threads: int = 0
    kv_mib: int = 4096
    max_batch: int = 64
    max_links: int = 16
    telemetry: str = ""
    telemetry_s: float = 10.0
    session: SessionConfig = field(default_factory=SessionConfig)
    isolated: IsolatedConfig = field(default_factory=IsolatedConfig)
