"""What an enclave is told. Everything has a default; light, since every role reads the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from narrows.config import out_of_range
from narrows.enclave.parameters import parameter_problems
from narrows.errors import InputError
from narrows.models.shelf.operators import key_problems
from narrows.wire.address import parse_address

MAX_THREADS = 256
MAX_OPEN_ANSWERS = 65_536


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """Where the server is and how long it may take. ``url`` ends in ``/v1``.

    ``folder``: what the server was started with, for the model's tokenizer and chat template.
    ``tokens``: whether answers cross as the model's own token ids: ``auto`` where that works,
    ``required`` refuses to start where it does not. ``noise``: what the server draws with:
    ``narrows`` its plugin's, ``seed-vllm`` and ``seed-sglang`` their own under a seed, ``none``
    what nobody knows, ``auto`` what a probe finds. ``tools`` and ``reasoning``: how the model
    writes them into its text, ``auto`` as its template does; ``none`` leaves requests with tools to
    the server, and reasoning in the content; ``begun``: the prompt opens the reasoning and the
    server takes none apart (docs/less.md). ``server``: which one it is, for the parameters of
    requests that it knows; ``pass_`` (``pass`` in the file): more of them; ``drop``: those that are
    taken out of requests; ``extra_body``: what is sent where a request does not say it; ``images``:
    whether it takes pictures and files (docs/engines.md)."""

    url: str
    model: str
    api_key: str = ""
    folder: Path | None = None
    tokens: Literal["auto", "off", "required"] = "auto"
    noise: Literal["auto", "narrows", "seed-vllm", "seed-sglang", "none"] = "auto"
    tools: Literal["auto", "hermes", "llama3", "none"] = "auto"
    reasoning: Literal["auto", "think", "begun", "none"] = "auto"
    server: Literal["openai", "vllm", "sglang", "llama.cpp"] = "openai"
    pass_: Annotated[tuple[str, ...], Field(alias="pass")] = ()
    drop: tuple[str, ...] = ()
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    images: bool = False
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
    ``kv_mib``: bound of the strong model's cache, ``weak_kv_mib``: of each weak model's; an
    answer that finds none left fails as overloaded. ``max_links``: connections at once.
    ``telemetry``: where the gate's telemetry port connects, empty for none; every
    ``telemetry_s`` seconds what is new is sent. ``reasoning``: what of an answer's hidden reasoning
    may leave; ``reasoning_bytes``: how much of one answer's may stay inside (docs/less.md).
    """

    listen: str = "127.0.0.1:8401"
    model: str = "smollm2-135m"
    upstream: UpstreamConfig | None = None
    weak: tuple[str, ...] = ("default",)
    weak_folder: Path | None = None
    operators: tuple[str, ...] = ()
    threads: int = 0
    kv_mib: int = 4096
    weak_kv_mib: int = 512
    max_batch: int = 64
    max_links: int = 16
    telemetry: str = ""
    telemetry_s: float = 10.0
    reasoning: Literal["send", "keep"] = "send"
    reasoning_bytes: int = 1 << 20
    session: SessionConfig = field(default_factory=SessionConfig)
    isolated: IsolatedConfig = field(default_factory=IsolatedConfig)

    @property
    def strong_models(self) -> tuple[str, ...]:
        """The built-in model, where it is the one that answers."""
        return (self.model,) if self.upstream is None else ()

    def check(self) -> EnclaveConfig:
        """Itself, or ``InputError`` with every problem."""
        problems = _enclave_problems(self)
        if self.upstream is not None:
            problems += _upstream_problems(self.upstream)
        if problems:
            raise InputError("the enclave's configuration is wrong", problems=tuple(problems))
        return self


@dataclass(frozen=True, slots=True)
class UpstreamFlags:
    """``--upstream-url`` and ``--upstream-model``; what they leave out, the file says."""

    url: str | None = None
    model: str | None = None

    def over(self, config: EnclaveConfig) -> EnclaveConfig:
        """``config`` with what the flags say. ``InputError`` for a model of no server."""
        before = config.upstream
        url = self.url if self.url is not None else before.url if before else None
        if url is None:
            if self.model is None:
                return config
            raise InputError("--upstream-model names the model of no server", "give --upstream-url")
        if before is None:
            upstream = UpstreamConfig(url, self.model or "default")
        else:
            upstream = replace(before, url=url, model=self.model or before.model)
        return replace(config, upstream=upstream)


def _enclave_problems(config: EnclaveConfig) -> list[str]:
    problems = out_of_range(
        [
            ("threads", config.threads, 0, MAX_THREADS),
            ("kv_mib", config.kv_mib, 16, 1 << 24),
            ("weak_kv_mib", config.weak_kv_mib, 1, 1 << 24),
            ("max_batch", config.max_batch, 1, 4096),
            ("max_links", config.max_links, 1, 4096),
            ("telemetry_s", config.telemetry_s, 0.1, 86_400),
            ("reasoning_bytes", config.reasoning_bytes, 1024, 1 << 28),
            ("hello_timeout_s", config.session.hello_timeout_s, 0.1, 3600),
            ("max_answers", config.session.max_answers, 1, MAX_OPEN_ANSWERS),
        ]
    )
    for name, text in (("listen", config.listen), ("telemetry", config.telemetry)):
        if text or name == "listen":
            try:
                parse_address(text)
            except InputError as error:
                problems.append(f"{name}: {error}")
    if not config.model:
        problems.append("model is empty; it is a built-in model's name or an artifact")
    least = 0 if config.weak_folder is not None else 1
    if not least <= len(config.weak) <= 16:
        problems.append(f"weak must name {least}..16 weak models")
    return problems + key_problems(config.operators)


def _upstream_problems(config: UpstreamConfig) -> list[str]:
    problems = out_of_range(
        [
            ("connect_timeout_s", config.connect_timeout_s, 0.1, 600),
            ("first_token_timeout_s", config.first_token_timeout_s, 0.1, 86_400),
            ("token_timeout_s", config.token_timeout_s, 0.1, 86_400),
            ("answer_timeout_s", config.answer_timeout_s, 0.1, 604_800),
            ("max_line_bytes", config.max_line_bytes, 1024, 1 << 28),
            ("max_answer_bytes", config.max_answer_bytes, 1024, 1 << 30),
        ]
    )
    if not config.url.startswith(("http://", "https://")):
        problems.append(f"url {config.url!r} is no http address: write http://host:port/v1")
    if not config.model:
        problems.append("model is empty: what does that server call it?")
    problems += parameter_problems(config.pass_, config.drop, config.extra_body)
    if config.tokens == "required" and config.folder is None:
        problems.append('tokens = "required" needs folder: where are the model\'s files?')
    if not config.api_key.isprintable() or not config.api_key.isascii():
        problems.append("api_key holds a character that no header can carry")
    return problems
