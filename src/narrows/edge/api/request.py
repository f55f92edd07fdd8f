"""A chat completion request, from hostile JSON to the few fields that travel inward.

Every field of OpenAI's request is either checked and used, or harmless and dropped, or refused
with its name: silently ignoring a field that changes the answer would be a wrong answer. Null
means absent, as in OpenAI's own API.

``seed`` goes to a model server as it is. It is never the noise of the shared sampler: who may
choose that chooses what looks natural (a client with 2^k seeds to try gains k bits). There it is
mixed with the edge's secret, in ``seeds.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from narrows.coding import kept, markup
from narrows.coding.spec import MAX_ANSWER_TOKENS
from narrows.edge.api import policy
from narrows.edge.api.messages import check_messages
from narrows.edge.api.tools import check_response_format, check_tool_choice, check_tools
from narrows.edge.config import ConciseConfig, EdgeLimits
from narrows.edge.dialects.fields import BodyFields
from narrows.edge.local import Route
from narrows.edge.problems import bad_request, check_known, unknown_field, unknown_model
from narrows.wire.parameters import PARAMETERS, together, wrong

COMPLETION_TOKENS = 16
"""OpenAI's own, of a completion that names none."""
PRICED_TOKENS = 16384
"""An answer's length in the price of what is refused, where the request names none."""

# Harmless: labels, caching hints, delivery preferences.
_DROPPED = frozenset(
    {
        "user",
        "metadata",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
    }
)
# Accepted only with the value that changes nothing.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "store": (False,),
    "prediction": (),
    "verbosity": (),
    "web_search_options": (),
    "functions": (),
    "function_call": (),
}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """``body``: what travels inward. ``stops``: applied at the edge too. ``n``: answers.
    ``concise``: a short one is wanted. ``keep``: the client did not ask (``store: false``) that
    its answers be forgotten. ``route``: who it goes to. ``prompts``: of a completion, ``n``
    divided by their number each; they are not in ``body``."""

    body: dict[str, Any]
    stops: tuple[str, ...]
    n: int
    stream: bool
    include_usage: bool
    seed: int | None
    keep: bool = True
    prompts: tuple[str, ...] = ()
    concise: bool = False
    route: Route = "strong"

    def shortened(self, config: ConciseConfig) -> ChatRequest:
        """With the operator's wording, where he or the client wants a short answer."""
        if "messages" not in self.body or not (self.concise or config.always):
            return self
        said = {"role": "system", "content": config.wording}
        body = self.body | {"messages": [said, *self.body["messages"]]}
        return replace(self, body=body, concise=True)

    @property
    def choices(self) -> int:
        """Answers to the same prompt; they stand side by side."""
        return self.n // max(1, len(self.prompts))

    def inward(self, index: int) -> dict[str, Any]:
        """What travels inward for one answer: a server given one seed would say the same n
        times."""
        body, choice = self.body, index
        if self.prompts:
            prompt, choice = divmod(index, self.choices)
            body = body | {"prompt": self.prompts[prompt]}
        if self.seed is None or not choice:
            return body
        return body | {"seed": self.seed + choice}


class _Fields(BodyFields):
    """The request's fields; what is left at the end is unknown, harmless, or neutral."""

    def integer(self, name: str, low: int, high: int) -> int | None:
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise bad_request(f"{name} must be an integer.", name, "invalid_type")
        if not low <= value <= high:
            raise bad_request(f"{name} must be {low}..{high}.", name)
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise bad_request(f"{name} must be a number.", name, "invalid_type")
        if not low <= value <= high:
            raise bad_request(f"{name} must be {low:g}..{high:g}.", name)
        return value

    def finish(self) -> None:
        for name, value in self._left.items():
            if name in _NEUTRAL:
                if value not in _NEUTRAL[name]:
                    raise bad_request(f"{name} is not supported.", name, "unsupported_parameter")
            elif name not in _DROPPED:
                raise unknown_field(name)


def parse_chat(data: Mapping[str, Any], model_name: str, limits: EdgeLimits) -> ChatRequest:
    """Raises ``ApiError``. ``data`` has passed ``jsonio.parse_object``."""
    fields = _Fields(data)
    _check_model(fields.take("model"), model_name)
    max_tokens = _max_tokens(fields, limits)
    priced_tokens = max_tokens or PRICED_TOKENS
    _refuse_wide_output(fields, priced_tokens)
    messages = check_messages(fields.take("messages"), limits, priced_tokens)
    body: dict[str, Any] = {"messages": messages, markup.FIELD: markup.VERSION}
    if max_tokens:
        body["max_tokens"] = max_tokens
    tools = _tools(fields, limits)
    concise = bool(fields.flag("concise"))
    keep = data.get("store") is None
    return _finished(fields, body | tools, limits, keep=keep, concise=concise)


def parse_completion(
    data: Mapping[str, Any], prompts: tuple[str, ...], model_name: str, limits: EdgeLimits
) -> ChatRequest:
    """The same of a completion, whose ``prompts`` have been taken out of ``data``."""
    fields = _Fields({name: value for name, value in data.items() if name != "prompt"})
    _check_model(fields.take("model"), model_name)
    max_tokens = fields.integer("max_tokens", 1, limits.max_tokens) or COMPLETION_TOKENS
    top = fields.take("logprobs")
    if top is not None and top is not False:  # 0 asks for the drawn token's own
        raise policy.refuse_logprobs(max_tokens, top)
    if fields.flag("echo"):
        size_bytes = sum(len(one.encode("utf-8", "surrogatepass")) for one in prompts)
        raise policy.refuse_echo(size_bytes)
    if fields.take("suffix") not in (None, ""):
        message = "suffix is not supported: no model here fills a gap."
        raise bad_request(message, "suffix", "unsupported_parameter")
    if fields.take("best_of") not in (None, data.get("n") or 1):
        message = "best_of is not supported beyond n: send n, and choose."
        raise bad_request(message, "best_of", "unsupported_parameter")
    body: dict[str, Any] = {"max_tokens": max_tokens}
    form = check_response_format(fields.take("response_format"))
    if form is not None:
        body["response_format"] = form
    return _finished(fields, body, limits, keep=data.get("store") is None, prompts=prompts)


def _finished(
    fields: _Fields,
    body: dict[str, Any],
    limits: EdgeLimits,
    *,
    keep: bool,
    concise: bool = False,
    prompts: tuple[str, ...] = (),
) -> ChatRequest:
    """``body`` with the fields that all have in common."""
    for name, high in (("temperature", 2.0), ("top_p", 1.0)):
        number = fields.number(name, 0, high)
        if number is not None:
            body[name] = number
    stops = _stops(fields.take("stop"), limits)
    if stops:
        body["stop"] = list(stops)
    _add_parameters(fields, body)
    body[kept.FIELD] = _reasoning(fields)
    seed = fields.integer("seed", -(1 << 63), (1 << 64) - 1)
    if seed is not None:
        body["seed"] = seed
    n = (fields.integer("n", 1, limits.n) or 1) * max(1, len(prompts))
    most = max(1, limits.answers // 2)
    if prompts and n > most:
        raise bad_request(f"More than {most} answers at once.", "prompt")
    stream = bool(fields.flag("stream"))
    request = ChatRequest(
        body=body,
        stops=stops,
        n=n,
        stream=stream,
        include_usage=_include_usage(fields.take("stream_options"), stream),
        seed=seed,
        keep=keep,
        prompts=prompts,
        concise=concise,
    )
    fields.finish()
    return request


def _check_model(model: object, model_name: str) -> None:
    if not isinstance(model, str):
        raise bad_request("model must be a string.", "model", "missing_required_parameter")
    if model != model_name:
        raise unknown_model(model, model_name)


def _max_tokens(fields: _Fields, limits: EdgeLimits) -> int:
    """0: the client names none, and none is sent."""
    newer = fields.integer("max_completion_tokens", 1, limits.max_tokens)
    older = fields.integer("max_tokens", 1, limits.max_tokens)
    if newer is not None and older is not None and newer != older:
        message = "max_tokens and max_completion_tokens differ."
        raise bad_request(message, "max_completion_tokens")
    return newer or older or limits.default_max_tokens


def _refuse_wide_output(fields: _Fields, max_tokens: int) -> None:
    top = fields.take("top_logprobs")
    if fields.take("logprobs") not in (None, False) or top not in (None, 0):
        raise policy.refuse_logprobs(max_tokens, top)
    if fields.take("modalities") not in (None, ["text"]) or fields.take("audio") is not None:
        raise policy.refuse_audio_output(max_tokens)


def _stops(value: object, limits: EdgeLimits) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise bad_request("stop must be a string or strings.", "stop", "invalid_type")
    if len(stops) > limits.stops or any(len(stop) > limits.stop_chars for stop in stops):
        message = f"stop takes {limits.stops} strings of {limits.stop_chars} characters at most."
        raise bad_request(message, "stop")
    return tuple(stop for stop in stops if stop)


def _tools(fields: _Fields, limits: EdgeLimits) -> dict[str, Any]:
    """Tools and the form of the answer."""
    body: dict[str, Any] = {}
    tools = check_tools(fields.take("tools"), limits)
    choice = check_tool_choice(fields.take("tool_choice"), tools)
    parallel = fields.flag("parallel_tool_calls")
    response_format = check_response_format(fields.take("response_format"))
    if tools:
        body["tools"] = tools
        if choice is not None:
            body["tool_choice"] = choice
        if parallel is not None:
            body["parallel_tool_calls"] = parallel
    if response_format is not None:
        body["response_format"] = response_format
    return body


def _add_parameters(fields: _Fields, body: dict[str, Any]) -> None:
    """What real servers take beside OpenAI's fields: passed inward, where it is known who heeds
    it."""
    for name in PARAMETERS:
        value = fields.take(name)
        if name == "chat_template_kwargs" and isinstance(value, dict):
            value = {key: said for key, said in value.items() if said is not None} or None
        if value is None:
            continue
        if found := wrong(name, value):
            path = f"{name}.{found.inner}" if found.inner else name
            shown = path.encode("ascii", "replace").decode()
            code = "unknown_parameter" if found.unknown else "invalid_value"
            raise bad_request(f"{shown} {found.what}.", shown, code)
        body[name] = value
    if names := together(body):
        raise bad_request(f"{' and '.join(names)} are one thing said twice; send one.", names[0])
    if body.get("min_tokens", 0) > body.get("max_tokens", MAX_ANSWER_TOKENS):
        raise bad_request("min_tokens is above max_tokens.", "min_tokens")


def _reasoning(fields: _Fields) -> str:
    """How much of an answer's reasoning the client wants at most."""
    shown = fields.flag("include_reasoning")
    said = fields.text(kept.FIELD)
    if said is not None and said not in kept.LEVELS:
        raise fields.bad(kept.FIELD, "must be send or keep")
    return "keep" if shown is False else said or "send"


def _include_usage(options: object, stream: bool) -> bool:
    if options is None:
        return False
    if not isinstance(options, dict):
        raise bad_request("stream_options must be an object.", "stream_options", "invalid_type")
    if not stream:
        raise bad_request("stream_options needs stream: true.", "stream_options")
    # include_obfuscation pads chunks against onlookers: the edge speaks to its client alone.
    check_known(options, ("include_usage", "include_obfuscation"), "stream_options")
    for name, wanted in options.items():
        if wanted is not None and not isinstance(wanted, bool):
            inner = f"stream_options.{name}"
            raise bad_request(f"{inner} must be true or false.", inner, "invalid_type")
    return bool(options.get("include_usage"))
