"""Every error a client can get, in OpenAI's shape; the words are made here, at the edge.

    {"error": {"message", "type", "param", "code"}}        plus "price_bytes" for egress_policy

``retry`` becomes the header ``x-should-retry``, which the openai package obeys before it looks
at the status: *false* wherever the same request would only fail again (and, upstream, burn
budget again). Where waiting helps, ``retry_after_s`` says how long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from narrows.coding.events import Failure
from narrows.errors import NarrowsError
from narrows.wire.media import media_bytes
from narrows.wire.parameters import PARAMETERS

MAX_MESSAGE_CHARS = 500


class ApiError(NarrowsError):
    """An answer that is an error. ``code`` is for programs, the message for people."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        retry: bool = False,
        retry_after_s: int | None = None,
        price_bytes: int | None = None,
    ) -> None:
        super().__init__(message[:MAX_MESSAGE_CHARS])
        self.status = status
        self.code = code
        self.kind = kind
        self.param = param
        self.retry = retry
        self.retry_after_s = retry_after_s
        self.price_bytes = price_bytes

    def body(self) -> dict[str, Any]:
        error: dict[str, Any] = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        if self.price_bytes is not None:
            error["price_bytes"] = self.price_bytes
        return {"error": error}

    def headers(self) -> dict[str, str]:
        headers = {"x-should-retry": "true" if self.retry else "false"}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def bad_request(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    return ApiError(400, code, message, param=param)


def unknown_field(name: str, where: str = "") -> ApiError:
    """``where``: the object that it is in, as in ``messages[3].content[0]``."""
    shown = name[:64].encode("ascii", "replace").decode()
    path = f"{where}.{shown}" if where else shown
    return bad_request(f"{path} is no known parameter.", path, "unknown_parameter")


def check_known(value: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Refuse, by its name, a field that is none of ``names``; null means absent."""
    for name, inner in value.items():
        if inner is not None and name not in names:
            raise unknown_field(name, where)


def too_long(message: str) -> ApiError:
    return ApiError(400, "context_length_exceeded", message, param="messages")


def unknown_model(asked: str, served: str) -> ApiError:
    shown = asked[:100].encode("ascii", "backslashreplace").decode()
    message = f"The model '{shown}' does not exist; this edge serves '{served}'."
    return ApiError(404, "model_not_found", message, param="model")


def body_too_large(limit_bytes: int) -> ApiError:
    message = f"The request's body exceeds {limit_bytes:,} bytes."
    return ApiError(413, "request_too_large", message)


def body_too_slow() -> ApiError:
    return ApiError(408, "request_too_slow", "The request's body did not arrive in time.")


def server_error(
    status: int, code: str, message: str, *, retry: bool, retry_after_s: int | None = None
) -> ApiError:
    return ApiError(
        status, code, message, kind="server_error", retry=retry, retry_after_s=retry_after_s
    )


def link_down() -> ApiError:
    return server_error(
        503, "link_down", "The link to the enclave is down.", retry=True, retry_after_s=2
    )


def link_refused(reason: str) -> ApiError:
    message = f"Enclave and edge do not fit together ({reason}); their operator must act."
    return server_error(503, "link_refused", message, retry=False)


def local_down() -> ApiError:
    return server_error(
        503, "local_down", "The local model does not answer.", retry=True, retry_after_s=5
    )


def client_gone() -> ApiError:
    return ApiError(499, "client_gone", "The client has gone.")


def link_lost() -> ApiError:
    message = "The link to the enclave broke in mid-answer; what was sent so far is incomplete."
    return server_error(502, "link_lost", message, retry=True)


def link_corrupt() -> ApiError:
    message = "The link's check failed: the rest of the answer cannot be trusted and was dropped."
    return server_error(502, "link_corrupt", message, retry=True)


def stalled(idle_s: float) -> ApiError:
    message = f"Nothing of the answer arrived for {idle_s:g} s."
    return server_error(504, "answer_stalled", message, retry=False)


def too_slow() -> ApiError:
    message = "The client takes the answer too slowly; it was stopped."
    return server_error(503, "client_too_slow", message, retry=False)


def too_large(limit_bytes: int) -> ApiError:
    message = f"The answer is larger than {limit_bytes:,} bytes; it was stopped."
    return server_error(502, "answer_too_large", message, retry=False)


def over_limit() -> ApiError:
    message = (
        "The answer passed a limit of the link and was stopped there: too long for its max_tokens, "
        "or too many tool calls, changes between reasoning and content, or characters without a "
        "token."
    )
    return server_error(502, "answer_over_limit", message, retry=False)


def overloaded(message: str = "Too many answers are in flight.") -> ApiError:
    return ApiError(
        429, "overloaded", message, kind="rate_limit_error", retry=True, retry_after_s=1
    )


def alarmed(number: int, detector: str, whole: bool) -> ApiError:
    """``whole``: all answers are refused, not this key's alone."""
    whose = "This edge's answers are" if whole else "This API key's answers are"
    message = (
        f"{whose} refused since an alarm ({detector}{f', number {number}' if number else ''}) "
        "that its operator has not acknowledged."
    )
    return server_error(503, "alarm_open", message, retry=False)


def shutting_down() -> ApiError:
    return server_error(503, "shutting_down", "The edge is stopping.", retry=True, retry_after_s=5)


_MAY_PASS = ("witness", "store", "clock", "machine")  # without a person; the gate keeps asking


def budget_error(state: str, retry_after_s: int) -> ApiError:
    """What a gate's state means to a client; ``state`` is not ``ok``.

    429, as for any spent quota, since the request was fine and the service is up; the gate's
    troubles (witness, store, clock) are a 503."""
    if state == "depleted":
        message = "The egress budget of this model is spent: no further byte of answers leaves."
        kind = "insufficient_quota"
        return ApiError(429, "egress_budget_exhausted", message, kind=kind, retry=False)
    if state == "window":
        wait_s = max(1, retry_after_s)
        message = f"The egress budget of this time window is spent; some returns in {wait_s} s."
        return ApiError(
            429,
            "egress_budget_exhausted",
            message,
            kind="rate_limit_error",
            retry=True,
            retry_after_s=wait_s,
        )
    if state in _MAY_PASS:
        message = f"The gate lets nothing out until its trouble is over (state: {state})."
        return server_error(503, "egress_closed", message, retry=True, retry_after_s=5)
    message = f"The gate lets nothing out until its operator acts (state: {state})."
    return server_error(503, "egress_closed", message, retry=False)


_FAILURES: dict[Failure, tuple[int, str, str, bool]] = {
    Failure.INTERNAL: (502, "enclave_failed", "The enclave failed on this answer.", False),
    Failure.UPSTREAM_REFUSED: (
        502,
        "upstream_refused",
        "The model server inside could not be reached or refused.",
        True,
    ),
    Failure.UPSTREAM_BROKE: (
        502,
        "upstream_broke",
        "The model server inside disconnected in mid-answer.",
        True,
    ),
    Failure.UPSTREAM_MALFORMED: (
        502,
        "upstream_malformed",
        "The model server inside sent something that is no answer.",
        False,
    ),
    Failure.UPSTREAM_SLOW: (504, "upstream_slow", "The model server inside was too slow.", False),
}


def failure_error(failure: Failure, asked: Sequence[str] = ()) -> ApiError:
    """The link carries a code only; these are its words. ``asked``: fields of the request that
    not every model heeds."""
    if failure in _FAILURES:
        status, code, message, retry = _FAILURES[failure]
        return server_error(status, code, message, retry=retry)
    if failure is Failure.PROMPT_TOO_LONG:
        return too_long("The prompt is longer than the model's context.")
    if failure is Failure.OVERLOADED:
        return overloaded("The enclave has too many answers in flight.")
    if failure is Failure.UPSTREAM_REJECTED:
        return bad_request("The model server does not accept this request.", None, "rejected")
    message = "The model inside cannot do what was asked"
    if asked:
        names = asked[0] if len(asked) == 1 else f"one of {', '.join(asked)}"
        message += f": its operator does not pass {names}, or the model does not take what it says"
    param = asked[0] if len(asked) == 1 else None
    return bad_request(message + ".", param, "unsupported_by_model")


def particular(body: Mapping[str, Any]) -> list[str]:
    """Names of a request's fields that not every model heeds."""
    names = [
        name for name, one in PARAMETERS.items() if name in body and not one.is_neutral(body[name])
    ]
    names += [name for name in ("tools", "response_format") if body.get(name)]
    if media_bytes(body.get("messages") or ())[0]:
        names.append("messages")
    return names
