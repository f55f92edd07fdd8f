"""The models that an enclave's configuration names."""

from __future__ import annotations

import logging
import os

from narrows.coding.kept import LEVELS
from narrows.enclave.backend import Backend
from narrows.enclave.builtin import BuiltinBackend
from narrows.enclave.config import EnclaveConfig, UpstreamConfig
from narrows.enclave.less.withheld import ReasoningRule
from narrows.enclave.modelserver import ModelServer
from narrows.enclave.tokens.backend import TokenBackend
from narrows.enclave.tokens.probe import ServerProbe
from narrows.enclave.tokens.standing import Standing
from narrows.enclave.tokens.strong import StrongText
from narrows.enclave.upstream import UpstreamBackend
from narrows.errors import InputError, NarrowsError
from narrows.models.registry import load_model
from narrows.models.shelf.operators import operator_keys
from narrows.models.shelf.shelf import Shelf, Shelving

log = logging.getLogger("narrows.enclave.upstream")


def make_backend(config: EnclaveConfig, weak: Shelf | None = None) -> Backend:
    """The strong model that the configuration names. ``weak``: the models that its answers will
    be coded with, where they are known. Raises NarrowsError."""
    if config.upstream is not None:
        rule = ReasoningRule(LEVELS[config.reasoning], config.reasoning_bytes)
        return _upstream(config.upstream, weak, rule)
    model = load_model(config.model, threads=config.threads, kv_bytes=config.kv_mib << 20)
    return BuiltinBackend(model, max_batch=config.max_batch)


def _upstream(config: UpstreamConfig, weak: Shelf | None, rule: ReasoningRule) -> Backend:
    """Over token ids where the configuration and the weak models allow it, else over text."""
    if config.tokens == "off":
        return UpstreamBackend(config, rule=rule)
    try:
        strong = _strong(config, weak)
    except NarrowsError as error:
        if config.tokens == "required":
            raise
        log.info("answers cross as text: %s", error)
        return UpstreamBackend(config, rule=rule)
    server = ModelServer(config)
    probe = ServerProbe(server, config, strong, os.urandom)
    standing = Standing(probe, coupling=config.noise != "none")
    return TokenBackend(config, server, strong, standing, rule=rule)


def _strong(config: UpstreamConfig, weak: Shelf | None) -> StrongText:
    """NarrowsError: why its token ids cannot cross."""
    if config.folder is None:
        raise InputError("[enclave.upstream] folder does not say where the model's files are")
    reasoning = "think" if config.reasoning == "begun" else config.reasoning
    strong = StrongText(config.folder, tools=config.tools, reasoning=reasoning)
    if marker := strong.other_channels:
        raise InputError(f"the model writes {marker}, which only its server takes apart")
    if weak is not None and not _shared(strong, weak):
        raise InputError(
            f"no weak model has the tokenizer of {config.folder.name}",
            "make one of that family: docs/weak-models.md",
        )
    log.info(
        "the model writes calls of tools as %s and reasoning %s",
        strong.calls.value,
        "between <think> markers" if strong.reasons else "not at all",
    )
    return strong


def _shared(strong: StrongText, weak: Shelf) -> bool:
    """Whether a weak model that is in memory has the strong model's tokenizer."""
    for digest in weak.in_memory:
        model = weak.take(digest)
        same = model.tokenizer.digest == strong.tokenizer.digest
        weak.give(model)
        if same:
            return True
    return False


def load_weak(config: EnclaveConfig) -> Shelf:
    """The weak models that the configuration names, and those of its folder. Raises
    NarrowsError where a named one cannot be used."""
    return Shelf(
        Shelving(
            config.weak,
            config.weak_folder,
            operator_keys(config.operators),
            lambda name, expect: load_model(
                name,
                threads=config.threads,
                kv_bytes=config.weak_kv_mib << 20,
                expect=expect,
            ),
        )
    )
