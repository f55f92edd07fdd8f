"""What becomes of a request's parameters before a model server gets them.

A parameter is passed, or in another word for the same, or dropped since the operator said so, or
refused: none is ignored. A server that does not know a parameter would ignore it, so what passes
is what the named server knows. Nothing that makes a server say more than the answer is among it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from narrows.errors import InputError
from narrows.wire.media import check_parts
from narrows.wire.parameters import FORMATS, PARAMETERS, REPETITION, together, wrong

Server = Literal["openai", "vllm", "sglang", "llama.cpp"]

CORE_FIELDS = frozenset(
    {
        "messages",
        "prompt",
        "max_tokens",
        "temperature",
        "top_p",
        "stop",
        "seed",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "markup",
        "reasoning",
    }
)
"""Fields of a request that are no parameters of ``PARAMETERS``."""

_ANY = (
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "reasoning_effort",
    "chat_template_kwargs",
)
_ENGINE = (*_ANY, "top_k", "min_p", "ignore_eos")
PRESETS: Mapping[Server, tuple[str, ...]] = {
    "openai": _ANY,
    "vllm": (*_ENGINE, "repetition_penalty", "min_tokens", "stop_token_ids", "structured_outputs"),
    "sglang": (*_ENGINE, "repetition_penalty", "min_tokens", "stop_token_ids", "regex", "ebnf"),
    "llama.cpp": (*_ENGINE, "typical_p", "repeat_penalty", "grammar", "json_schema"),
}
"""What each server is known to heed; ``openai`` stands for any."""

_KINDS = {
    "guided_json": "json",
    "json_schema": "json",
    "guided_regex": "regex",
    "regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "ebnf": "grammar",
    "grammar": "gbnf",
}
_OURS = frozenset(
    {
        "model",
        "stream",
        "stream_options",
        "n",
        "best_of",
        "echo",
        "suffix",
        "logprobs",
        "top_logprobs",
        "prompt_logprobs",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "return_logprob",
        "return_hidden_states",
        "n_probs",
        "post_sampling_probs",
        "include_stop_str_in_output",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "cache_salt",
        "vllm_xargs",
        "modalities",
        "audio",
    }
)
"""What a request to the server says by itself or must not say: no operator's word either."""


def check_fields_of(body: Mapping[str, Any]) -> None:
    """InputError where a request holds an unknown field, a wrong value of ``PARAMETERS``,
    or two that say one thing."""
    for name, value in body.items():
        if name in CORE_FIELDS or value is None:
            continue
        if name not in PARAMETERS:
            raise InputError(f"{name[:64]!r} is no field of a request")
        if found := wrong(name, value):
            raise InputError(f"{name}{found.inner and '.'}{found.inner} {found.what}")
    if names := together(body):
        raise InputError(f"{' and '.join(names)} are one thing said twice")


def forced_form(body: Mapping[str, Any]) -> tuple[str, Any, str] | None:
    """What the answer's form is forced to be, with the field's name: ``json`` and its schema,
    ``json_object``, ``regex``, ``choice`` and its list, ``grammar`` (of vLLM) or ``gbnf``; of
    ``FORMATS`` alone. None where nothing is."""
    for name in FORMATS:
        value = body.get(name)
        if value is None:
            continue
        if name == "structured_outputs":
            ((kind, inner),) = value.items()
            return (kind, inner, name) if kind != "json_object" or inner else None
        return _KINDS[name], value, name
    return None


def parameter_problems(
    passed: Sequence[str], drop: Sequence[str], extra: Mapping[str, Any]
) -> list[str]:
    """What is wrong with these three of ``[enclave.upstream]``, for people."""
    problems = [
        f"{key} names {name!r}, which is no parameter; there are: {', '.join(sorted(PARAMETERS))}"
        for key, names in (("pass", passed), ("drop", drop))
        for name in names
        if name not in PARAMETERS
    ]
    problems += [f"pass and drop both name {name!r}" for name in passed if name in drop]
    for name, value in extra.items():
        if name in _OURS or name in CORE_FIELDS:
            problems.append(f"extra_body says {name}, which is narrows' own to say")
        elif name in PARAMETERS and (found := wrong(name, value)):
            problems.append(f"extra_body: {name} {found.what}")
        elif not _is_json(value):
            problems.append(
                f"extra_body: {name} is not JSON: it has a date, or a number without end"
            )
    return problems


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


class UpstreamParameters:
    """The rules for one server."""

    def __init__(
        self,
        server: Server,
        passed: Sequence[str] = (),
        drop: Sequence[str] = (),
        extra: Mapping[str, Any] | None = None,
        *,
        images: bool = False,
    ) -> None:
        self._images = images
        self._server = server
        self._as_they_are = frozenset(passed)
        self.known = (frozenset(PRESETS[server]) | self._as_they_are) - frozenset(drop)
        self._drop = frozenset(drop)
        self.extra = dict(extra or {})

    def applied(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request as the server is to get it. InputError, naming the parameter: it cannot
        be passed."""
        check_fields_of(body)
        check_parts(body.get("messages") or (), self._images)
        kept = {
            name: value
            for name, value in body.items()
            if value is not None and name not in self._drop
        }
        self._translate(kept)
        for name in [name for name in kept if name in PARAMETERS and name not in self.known]:
            if not PARAMETERS[name].is_neutral(kept[name]):
                raise InputError(
                    f"{name} is not passed to this server",
                    f'if it knows it, say pass = ["{name}"] in [enclave.upstream]',
                )
            del kept[name]
        return self.extra | kept

    def _translate(self, kept: dict[str, Any]) -> None:
        for one, other in (REPETITION, REPETITION[::-1]):
            if one in kept and one not in self.known and other in self.known:
                kept.setdefault(other, kept.pop(one))
        forced = forced_form(kept)
        if forced is None:
            return
        kind, value, name = forced
        if name not in self._as_they_are and (said := self._form(kind, value)):
            del kept[name]
            kept |= said

    def _form(self, kind: str, value: Any) -> dict[str, Any] | None:
        """The same in this server's words; None where it has none."""
        if kind == "json":
            schema = {"name": "answer", "schema": value, "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        if kind == "json_object":
            return {"response_format": {"type": "json_object"}}
        if self._server == "vllm" and kind != "gbnf":
            return {"structured_outputs": {kind: value}}
        if self._server == "sglang" and kind in ("regex", "grammar"):
            return {"regex" if kind == "regex" else "ebnf": value}
        if self._server == "llama.cpp" and kind == "gbnf":
            return {"grammar": value}
        return None
