"""The models that an enclave's configuration names."""

from __future__ import annotations

from narrows.enclave.backend import Backend
from narrows.enclave.builtin import BuiltinBackend
from narrows.enclave.config import EnclaveConfig
from narrows.enclave.upstream import UpstreamBackend
from narrows.weak.api import TokenModel
from narrows.weak.registry import load_model


def make_backend(config: EnclaveConfig) -> Backend:
    """The strong model that the configuration names."""
    if config.upstream is not None:
        return UpstreamBackend(config.upstream)
    model = load_model(config.model, threads=config.threads, kv_bytes=config.kv_mib << 20)
    return BuiltinBackend(model, max_batch=config.max_batch)


def load_weak(config: EnclaveConfig) -> dict[bytes, TokenModel]:
    """Weak models by digest."""
    models = [load_model(name, threads=config.threads) for name in config.weak]
    return {model.digest: model for model in models}
