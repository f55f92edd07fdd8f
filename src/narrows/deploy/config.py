"""The configuration of all roles: which sections the one TOML file has."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from narrows.audit.role.config import AuditConfig
from narrows.config import fill_sections, toml_or_defaults
from narrows.deploy.gate_section import files_in, tls_in
from narrows.edge.config import EdgeConfig, HttpsFiles
from narrows.edge.model_table import ModelEntry
from narrows.enclave.config import EnclaveConfig, UpstreamFlags
from narrows.gate.config import GateConfig
from narrows.homes import expanded
from narrows.metrics.config import MetricsConfig

_Holder = TypeVar("_Holder", EnclaveConfig, EdgeConfig, ModelEntry)

MEDIA = 16


@dataclass(frozen=True)
class Config:
    enclave: EnclaveConfig
    gate: GateConfig
    edge: EdgeConfig
    audit: AuditConfig = field(default_factory=AuditConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)


def load_config(path: Path | None, upstream: UpstreamFlags | None = None) -> Config:
    """All sections; defaults where ``path`` is None. InputError names every mistake. Files that
    the configuration names lie relative to it. ``upstream``: flags that go before the file.

    An edge that is told no ``model_name`` goes by the upstream server's, where the same file or
    the flags name one; one that is told no number of pictures takes ``MEDIA`` where the same
    file's server takes them."""
    kinds = {"enclave": EnclaveConfig, "gate": GateConfig, "edge": EdgeConfig, "audit": AuditConfig}
    kinds["metrics"] = MetricsConfig
    file = toml_or_defaults(path)
    config = Config(**fill_sections(file, kinds))
    if upstream is not None:
        config = dataclasses.replace(config, enclave=upstream.over(config.enclave))
    named = file.data.get("edge", {}).get("model_name")
    if named is None and not config.edge.models and config.enclave.upstream is not None:
        edge = dataclasses.replace(config.edge, model_name=config.enclave.upstream.model)
        config = dataclasses.replace(config, edge=edge)
    limited = file.data.get("edge", {}).get("limits", {}).get("media")
    if limited is None and config.enclave.upstream is not None and config.enclave.upstream.images:
        limits = dataclasses.replace(config.edge.limits, media=MEDIA)
        config = dataclasses.replace(config, edge=dataclasses.replace(config.edge, limits=limits))
    if path is None:
        return config
    folder = path.parent.resolve()
    return dataclasses.replace(
        config,
        gate=files_in(config.gate, folder),
        edge=_edge_in(_weak_in(tls_in(config.edge, folder), folder), folder),
        enclave=_enclave_in(config.enclave, folder),
        audit=_audit_in(config.audit, folder),
        metrics=_metrics_in(config.metrics, folder),
    )


def _metrics_in(section: MetricsConfig, folder: Path) -> MetricsConfig:
    if section.token_file is None:
        return section
    return dataclasses.replace(section, token_file=folder / expanded(section.token_file))


def _audit_in(section: AuditConfig, folder: Path) -> AuditConfig:
    names = ("spool", "keys", "enrolment", "journal", "null")
    files = {name: getattr(section, name) for name in names}
    placed = {name: folder / expanded(file) for name, file in files.items() if file is not None}
    replaced: AuditConfig = dataclasses.replace(section, **placed)  # type: ignore[arg-type]
    return replaced


def _enclave_in(section: EnclaveConfig, folder: Path) -> EnclaveConfig:
    isolated = dataclasses.replace(
        section.isolated,
        files=tuple(folder / expanded(file) for file in section.isolated.files),
        devices=tuple(folder / expanded(file) for file in section.isolated.devices),
    )
    placed = dataclasses.replace(_weak_in(section, folder), isolated=isolated)
    upstream = placed.upstream
    if upstream is None or upstream.folder is None:
        return placed
    upstream = dataclasses.replace(upstream, folder=folder / expanded(upstream.folder))
    return dataclasses.replace(placed, upstream=upstream)


def _edge_in(section: EdgeConfig, folder: Path) -> EdgeConfig:
    if section.https is not None:
        files = (section.https.cert_file, section.https.key_file)
        placed = HttpsFiles(*(folder / expanded(file) for file in files))
        section = dataclasses.replace(section, https=placed)
    if section.keys_file is not None:
        section = dataclasses.replace(section, keys_file=folder / expanded(section.keys_file))
    models = []
    for one in section.models:
        null = _placed(one.null, folder) if one.null else one.null
        models.append(dataclasses.replace(_weak_in(one, folder), null=null))
    section = dataclasses.replace(section, models=tuple(models))
    if not section.alarms.null:
        return section
    alarms = dataclasses.replace(section.alarms, null=_placed(section.alarms.null, folder))
    return dataclasses.replace(section, alarms=alarms)


def _placed(name: str, folder: Path) -> str:
    return str(folder / expanded(Path(name)))


def _weak_in(section: _Holder, folder: Path) -> _Holder:
    if section.weak_folder is None:
        return section
    return dataclasses.replace(section, weak_folder=folder / expanded(section.weak_folder))
