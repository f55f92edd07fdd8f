"""What an edge is told. Everything has a default; ``check`` reports every problem at once.

The listener beyond loopback needs API keys: an open API spends the budget for anyone. The
gate beyond loopback needs TLS with pinned keys: answers would otherwise be read and forged
on their way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from narrows.alarms.settings import AlarmSettings
from narrows.coding.link.options import LinkOptions
from narrows.coding.spec import MAX_ANSWER_TOKENS
from narrows.config import Range, out_of_range
from narrows.edge.origins import origin_problems
from narrows.errors import InputError
from narrows.models.shelf.operators import key_problems
from narrows.wire.address import is_loopback
from narrows.wire.http_call import is_web
from narrows.wire.media import MAX_PARTS
from narrows.wire.messages import MAX_FRAME_BYTES
from narrows.wire.padding import frame_bytes
from narrows.wire.pins import TlsFiles

MAX_LINK_S = 31_536_000
MAX_WORDING_CHARS = 4096
# JSON escapes turn a 2-byte character into 6: a body of this size always fits in a frame.
MAX_BODY_BYTES = MAX_FRAME_BYTES // 3 - 65536


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """What one client, or all of them together, may ask of an edge.

    ``body_bytes``: a request's JSON. ``bodies_bytes``: of all requests in flight.
    ``default_max_tokens``: of a request that names none; 0: none is sent, the model decides.
    ``prompt_bytes``: text of all messages, UTF-8. ``prompts``: of one completion
    request. ``media``: pictures, sounds and files in a chat's messages; 0 refuses all.
    ``answers``: in flight, over all clients.
    ``buffer_bytes``: decoded text of a streamed answer that its client has not taken yet.
    ``answer_bytes``: text of one answer. ``client_stall_s``: a client that takes nothing for
    that long is dropped. ``idle_s``: an answer without any token for that long has failed;
    ``thinking_s``: the same of one that asks its reasoning to stay inside, before its first text.
    ``reply_key_bytes``, ``replies_bytes``, ``reply_s``: what is kept of replies that a client of
    the Responses API may go on from, for one API key, for all, and how long.
    """

    body_bytes: int = 2 << 20
    bodies_bytes: int = 32 << 20
    header_bytes: int = 64 << 10
    messages: int = 2048
    prompt_bytes: int = 1 << 20
    prompts: int = 64
    media: int = 0
    tools: int = 128
    stops: int = 16
    stop_chars: int = 256
    n: int = 8
    max_tokens: int = MAX_ANSWER_TOKENS
    default_max_tokens: int = 0
    answers: int = 256
    buffer_bytes: int = 4 << 20
    answer_bytes: int = 32 << 20
    client_stall_s: float = 60.0
    body_s: float = 30.0
    idle_s: float = 120.0
    thinking_s: float = 1800.0
    reply_key_bytes: int = 16 << 20
    replies_bytes: int = 256 << 20
    reply_s: float = 86_400.0


@dataclass(frozen=True, slots=True)
class HttpsFiles:
    """PEM files of the API's own TLS: the certificate with those between it and its authority, and
    its key. Read again at SIGHUP."""

    cert_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class TranscriptConfig:
    """Released answers and their prompts, kept for training where ``keep`` is set.
    ``max_bytes``, ``max_days``: the oldest go first. ``exclude_keys``: numbers of API keys
    whose answers are never kept (0: those asked without a key)."""

    keep: bool = False
    max_bytes: int = 1 << 30
    max_days: int = 30
    exclude_keys: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ConciseConfig:
    """``wording``: a system message that asks for a short answer, put in front of the others.
    ``always``: of every answer, else of those that ask for it (``concise: true``)."""

    wording: str = "Answer in as few words as the question allows."
    always: bool = False


@dataclass(frozen=True, slots=True)
class LocalConfig:
    """A model outside that answers what it can (docs/less.md). ``url``: of an OpenAI-compatible
    server, up to ``/v1``; empty for none. ``model``: its name there. ``down``: who answers where
    it does not. The others are of ``NAME-auto``: it may try prompts of ``max_prompt_chars`` at
    most, with tools where ``tools`` is set, whose system message holds ``system``; its answer is
    used where the mean log-probability of its tokens, in nats, is ``least_logprob`` or more."""

    url: str = ""
    model: str = "default"
    api_key: str = ""
    timeout_s: float = 60.0
    max_answer_bytes: int = 4 << 20
    down: Literal["strong", "error"] = "strong"
    max_prompt_chars: int = 4000
    tools: bool = False
    system: str = ""
    least_logprob: float = -0.5


@dataclass(frozen=True, slots=True)
class DriftConfig:
    """When ``status`` says that a weak model imitates worse than it did: the mean bits per byte
    of the last ``days`` are ``worse_percent`` above what its operator signed, or else above
    its own first days; both need ``min_bytes`` of answers."""

    worse_percent: float = 10.0
    days: int = 7
    min_bytes: int = 100_000


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """``weak``: weak models by name or path, newest first. ``weak_folder``: a folder of further
    ones, all newer than these, watched while the edge runs. ``operators``: public keys, 64 hex
    digits; where there are any, only weak models that one of them signed are loaded
    (docs/weak-models.md). ``weak_kv_mib``: bound of each weak model's cache; an answer that finds
    none left fails as overloaded. ``state_port`` 0: the gate's state
    port is not asked. ``constant_bytes`` 0: the gate paces variably; else the size of its
    ticks, as configured there. ``tick_ms``: text is released to clients on this grid, so no
    chunk boundary is the enclave's. ``link_wait_s``: how long a request waits for a link that
    is down. ``resume_s``: how long an interrupted answer waits for a new link. ``link_max_s``: a
    link of that age gets a successor and drains, by this clock alone (0: never): an auditor has to
    decode a link from its start (docs/audit.md). ``probe``: the
    edge asks the strong model for one token at the start, and after answers that failed inside,
    so that /healthz tells whether it answers. ``context_tokens``: what prompt and answer of the
    strong model may have together, as the list of models says it; 0: it says nothing.
    ``cors_origins``: of web pages that may ask, as browsers send them
    (``https://chat.example``); ``*`` alone: any, which needs keys.
    ``request_log``: a line for each request goes to the log, with ids and without content.
    ``https``: the API speaks TLS, and nothing else. ``keys_file``: further API keys
    (``books/keys_file.py``); with it a key is needed, whether there is one or not."""

    listen_host: str = "127.0.0.1"
    listen_port: int = 8400
    gate_host: str = "127.0.0.1"
    gate_port: int = 8402
    state_host: str = "127.0.0.1"
    state_port: int = 0
    port_name: str = "answers"
    constant_bytes: int = 0
    tls: TlsFiles | None = None
    weak: tuple[str, ...] = ("default",)
    weak_folder: Path | None = None
    operators: tuple[str, ...] = ()
    weak_kv_mib: int = 512
    model_name: str = "smollm2-135m-instruct"
    context_tokens: int = 0
    cors_origins: tuple[str, ...] = ()
    request_log: bool = False
    keys_file: Path | None = None
    https: HttpsFiles | None = None
    link_options: Mapping[str, int] = field(default_factory=dict)
    tick_ms: int = 10
    link_wait_s: float = 3.0
    resume_s: float = 10.0
    link_max_s: float = 86_400.0
    probe: bool = True
    limits: EdgeLimits = field(default_factory=EdgeLimits)
    transcripts: TranscriptConfig = field(default_factory=TranscriptConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    concise: ConciseConfig = field(default_factory=ConciseConfig)
    local: LocalConfig = field(default_factory=LocalConfig)
    alarms: AlarmSettings = field(default_factory=AlarmSettings)

    def check(self) -> EdgeConfig:
        """Itself, or ``InputError`` with every problem."""
        problems = [
            *_edge_problems(self),
            *out_of_range(_limit_ranges(self.limits)),
            *out_of_range(_training_ranges(self)),
            *_local_problems(self.local),
            *self.alarms.problems(),
        ]
        if problems:
            raise InputError("the edge's configuration is wrong", problems=tuple(problems))
        return self


def _edge_problems(config: EdgeConfig) -> list[str]:
    problems = [
        f"{name} {port} is no port (0..65535)"
        for name, port in (
            ("listen_port", config.listen_port),
            ("gate_port", config.gate_port),
            ("state_port", config.state_port),
        )
        if not 0 <= port <= 65535
    ]
    if config.tls is None and not is_loopback(config.gate_host):
        problems.append(f"a gate at {config.gate_host} needs TLS files (narrows init makes them)")
    least = 0 if config.weak_folder is not None else 1
    if not least <= len(config.weak) <= 16:
        problems.append(f"weak must name {least}..16 weak models")
    problems += key_problems(config.operators)
    problems += origin_problems(config.cors_origins)
    if not 1 <= config.weak_kv_mib <= 1 << 24:
        problems.append(f"weak_kv_mib {config.weak_kv_mib} is outside 1..{1 << 24}")
    if not 1 <= config.tick_ms <= 1000:
        problems.append(f"tick_ms {config.tick_ms} is outside 1..1000")
    if not 0 <= config.context_tokens <= 1 << 30:
        problems.append(f"context_tokens {config.context_tokens} is outside 0..{1 << 30}")
    if config.constant_bytes and not _is_frame(config.constant_bytes, config.tls is not None):
        problems.append(f"constant_bytes {config.constant_bytes} is no size that a gate can send")
    if not 1 <= len(config.concise.wording) <= MAX_WORDING_CHARS:
        problems.append(f"wording must have 1..{MAX_WORDING_CHARS} characters")
    for name, seconds in (("link_wait_s", config.link_wait_s), ("resume_s", config.resume_s)):
        if not 0 <= seconds <= 600:
            problems.append(f"{name} {seconds:g} is outside 0..600")
    if config.link_max_s and not 1 <= config.link_max_s <= MAX_LINK_S:
        problems.append(f"link_max_s {config.link_max_s:g} is outside 1..{MAX_LINK_S}, and not 0")
    if not config.model_name or len(config.model_name) > 200:
        problems.append("model_name must have 1..200 characters")
    try:
        LinkOptions.from_wire(config.link_options)
    except InputError as error:
        problems += [f"link_options: {problem}" for problem in error.problems]
    return problems


def _local_problems(local: LocalConfig) -> list[str]:
    problems = out_of_range(
        [
            ("timeout_s", local.timeout_s, 0.1, 3600),
            ("max_answer_bytes", local.max_answer_bytes, 1024, 1 << 28),
            ("max_prompt_chars", local.max_prompt_chars, 1, 1 << 24),
            ("least_logprob", local.least_logprob, -100, 0),
        ]
    )
    if local.url and not is_web(local.url):
        problems.append(f"url {local.url!r} is no http address: write http://host:port/v1")
    if not local.api_key.isprintable() or not local.api_key.isascii():
        problems.append("api_key holds a character that no header can carry")
    return problems


def _is_frame(constant_bytes: int, tls: bool) -> bool:
    try:
        return constant_bytes <= 1 << 20 and frame_bytes(constant_bytes, tls) >= 2
    except ValueError:
        return False


def _training_ranges(config: EdgeConfig) -> list[Range]:
    kept, drift = config.transcripts, config.drift
    return [
        ("transcripts.max_bytes", kept.max_bytes, 1 << 20, 1 << 40),
        ("transcripts.max_days", kept.max_days, 1, 3650),
        ("drift.worse_percent", drift.worse_percent, 0.1, 1000),
        ("drift.days", drift.days, 1, 90),
        ("drift.min_bytes", drift.min_bytes, 1, 1 << 40),
    ]


def _limit_ranges(limits: EdgeLimits) -> list[Range]:
    return [
        ("body_bytes", limits.body_bytes, 1024, MAX_BODY_BYTES),
        ("bodies_bytes", limits.bodies_bytes, limits.body_bytes, 1 << 34),
        ("header_bytes", limits.header_bytes, 8192, 1 << 20),
        ("messages", limits.messages, 1, 1 << 16),
        ("prompt_bytes", limits.prompt_bytes, 1, limits.body_bytes),
        ("prompts", limits.prompts, 1, 1024),
        ("media", limits.media, 0, MAX_PARTS),
        ("tools", limits.tools, 0, 1024),
        ("stops", limits.stops, 0, 64),
        ("stop_chars", limits.stop_chars, 1, 4096),
        ("n", limits.n, 1, 128),
        ("max_tokens", limits.max_tokens, 1, MAX_ANSWER_TOKENS),
        ("default_max_tokens", limits.default_max_tokens, 0, limits.max_tokens),
        ("answers", limits.answers, limits.n, 1000),
        ("buffer_bytes", limits.buffer_bytes, 1024, 1 << 30),
        ("answer_bytes", limits.answer_bytes, 1024, 1 << 30),
        ("client_stall_s", limits.client_stall_s, 0.1, 3600),
        ("body_s", limits.body_s, 0.1, 3600),
        ("idle_s", limits.idle_s, 0.1, 3600),
        ("thinking_s", limits.thinking_s, 0.1, 86_400),
        ("reply_key_bytes", limits.reply_key_bytes, 0, limits.replies_bytes),
        ("replies_bytes", limits.replies_bytes, 0, 1 << 40),
        ("reply_s", limits.reply_s, 1, 365 * 86_400),
    ]
