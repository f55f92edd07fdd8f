"""The models that an edge serves: what each needs of its own, and which one a request is for.

Each model has its own links to its own port of the gate, its own weak models, detectors and noise.
One that is down takes nothing from the others. Keys, limits and the API are the edge's.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from narrows.edge.answer import EdgeAnswer
from narrows.edge.config import EdgeConfig
from narrows.edge.dialects.chat import fingerprint
from narrows.edge.link.upkeep import LinkClient
from narrows.edge.local import Route, routes_of
from narrows.edge.problems import ApiError, bad_request, unknown_model
from narrows.edge.watch import AnswerWatch
from narrows.models.shelf.shelf import Shelf

LATE_S = 10.0
"""Bytes that wait longer for the decoder: an answer asked for now would come late or never."""


@dataclass(slots=True)
class EdgeModel:
    """``config``: as of an edge that serves it alone. ``secret``: of its noise. ``answers``:
    whether the strong model does. ``among``: it is one of several."""

    config: EdgeConfig
    link: LinkClient
    shelf: Shelf
    watch: AnswerWatch
    secret: bytes
    answers: Literal["ok", "down", "unknown"] = "ok"
    among: bool = False

    @property
    def name(self) -> str:
        """What clients call it."""
        return self.config.model_name

    @property
    def fingerprint(self) -> str:
        """Of name and weak model, as replies carry it."""
        return fingerprint(self.name, self.link.weak.digest)

    def weak_label(self, label: str) -> str:
        """What its weak model ``label`` (``Offer.label``) is called in statistics: two models that
        share a weak one are not imitated equally well."""
        return f"{label} of {self.name}" if self.among else label

    @property
    def serves(self) -> bool:
        """Whether answers can be had of it, as far as it goes."""
        link = self.link
        alive = link.up and link.gate_state.state == "ok" and self.answers == "ok"
        return alive and link.decoder_late_s() <= LATE_S

    def standing(self) -> dict[str, Any]:
        """How it is, and why: fields of the health reply."""
        link = self.link
        late_s = link.decoder_late_s()
        refused = link.redial.refusal
        return {
            "link": "up" if link.up else "down",
            "gate": link.gate_state.state,
            "model": self.answers,
            "decoder": "ok" if late_s <= LATE_S else "late",
            "decoder_late_s": round(late_s, 1),
            "refusal": refused.greeting.name if refused else None,
            "weak_model": link.weak.name,
            "weak_digest": link.weak.digest.hex(),
            "draining": link.draining,
        }

    def entry(self, name: str, created_s: int) -> dict[str, Any]:
        """As the list of models has it, under one of its names."""
        model = {"id": name, "object": "model", "created": created_s, "owned_by": "narrows"}
        if name != self.name:
            model["root"] = self.name
        size = self.config.context_tokens
        if size and name in (self.name, *self.config.aliases):
            # as vLLM's clients and OpenRouter's look for it
            model |= {"max_model_len": size, "context_length": size}
        return model


class EdgeModels:
    """All of them, in the configuration's order; at least one."""

    def __init__(self, models: Sequence[EdgeModel]) -> None:
        self.all = tuple(models)
        self._by_name: dict[str, tuple[EdgeModel, Route]] = {}
        for model in models:
            config = model.config
            for name in (config.model_name, *config.aliases):
                for asked, route in routes_of(name, config.local).items():
                    self._by_name[asked] = (model, route)

    @property
    def names(self) -> list[str]:
        """Everything that a client may ask for."""
        return list(self._by_name)

    def pick(self, asked: object) -> tuple[EdgeModel, Route]:
        """Which model, and who answers for it. Raises ApiError."""
        if not isinstance(asked, str):
            raise bad_request("model must be a string.", "model", "missing_required_parameter")
        if asked not in self._by_name:
            raise unknown_model(asked, [model.name for model in self.all])
        return self._by_name[asked]

    def entry(self, name: str, created_s: int) -> dict[str, Any]:
        """A model as clients see it. Raises ApiError."""
        return self.pick(name)[0].entry(name, created_s)

    def standings(self) -> dict[str, dict[str, Any]]:
        """How each is, by name."""
        return {model.name: model.standing() for model in self.all}

    def fail_those(self, picked: Callable[[EdgeAnswer], bool], reason: ApiError) -> None:
        """End the answers that ``picked`` names, on all links."""
        for model in self.all:
            model.link.fail_those(picked, reason)


def model_secret(secret: bytes, name: str) -> bytes:
    """Of one model's noise, where an edge serves several: what one enclave hears tells nothing of
    another's."""
    return hmac.new(secret, b"model\x00" + name.encode("utf-8"), hashlib.sha256).digest()
