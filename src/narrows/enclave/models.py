"""The models that an enclave's configuration names."""

from __future__ import annotations

from narrows.enclave.backend import Backend
from narrows.enclave.builtin import BuiltinBackend
from narrows.enclave.config import EnclaveConfig
from narrows.enclave.upstream import UpstreamBackend
from narrows.models.registry import load_model
from narrows.models.shelf.operators import operator_keys
from narrows.models.shelf.shelf import Shelf, Shelving


def make_backend(config: EnclaveConfig) -> Backend:
    """The strong model that the configuration names."""
    if config.upstream is not None:
        return UpstreamBackend(config.upstream)
    model = load_model(config.model, threads=config.threads, kv_bytes=config.kv_mib << 20)
    return BuiltinBackend(model, max_batch=config.max_batch)


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
