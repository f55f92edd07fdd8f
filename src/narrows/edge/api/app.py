"""The routes of the API."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from narrows.edge import problems
from narrows.edge.api import jsonio, policy
from narrows.edge.api.answering import AnswerResponse
from narrows.edge.api.request import ChatRequest, parse_chat
from narrows.edge.api.service import Service
from narrows.edge.dialects.anthropic import AnthropicDialect
from narrows.edge.dialects.anthropic_request import anthropic_request, error_body
from narrows.edge.dialects.chat import ChatDialect
from narrows.edge.dialects.dialect import Dialect
from narrows.edge.dialects.responses import ResponsesDialect
from narrows.edge.dialects.responses_request import responses_request
from narrows.edge.problems import ApiError

LATE_S = 10.0
"""Bytes that wait longer for the decoder: an answer asked for now would come late or never."""


def make_app(service: Service) -> Starlette:
    """The ASGI application of one edge."""
    routes = _Routes(service)
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/messages", routes.messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", routes.count_tokens, methods=["POST"]),
            Route("/v1/responses", routes.responses, methods=["POST"]),
            Route("/v1/responses/{reply}", routes.response, methods=["GET", "DELETE"]),
            Route("/v1/models", routes.models, methods=["GET"]),
            Route("/v1/models/{name:path}", routes.model, methods=["GET"]),
            Route("/healthz", routes.health, methods=["GET"]),
            Route("/v1/{rest:path}", routes.other, methods=["GET", "POST"]),
        ],
        exception_handlers={
            ApiError: _on_api_error,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_disconnect,
            Exception: _on_bug,
        },
    )
    app.state.refused = service.refused
    return app


class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def chat(self, request: Request) -> ASGIApp:
        scope = self._scope(request)
        body = await self._body(request)
        parsed = self._parsed(jsonio.parse_object(body))
        dialect = ChatDialect(
            parsed.n,
            model=self._service.config.model_name,
            created_s=int(self._service.wall_s()),
            system_fingerprint=self._service.fingerprint,
            with_usage=parsed.include_usage,
            random_bytes=self._service.random_bytes,
        )
        return AnswerResponse(self._service, parsed, dialect, scope, len(body))

    async def messages(self, request: Request) -> ASGIApp:
        scope = self._scope(request)
        body = await self._body(request)
        asked = anthropic_request(jsonio.parse_object(body), self._service.config.limits)
        parsed = self._parsed(asked.chat)
        dialect = AnthropicDialect(
            model=self._service.config.model_name,
            thinking=asked.thinking,
            random_bytes=self._service.random_bytes,
        )
        return AnswerResponse(self._service, parsed, dialect, scope, len(body))

    async def count_tokens(self, request: Request) -> Response:
        """By the weak model's tokens, which are the strong one's where its answers cross as ids."""
        self._service.access.scope(request.headers)
        body = await self._body(request)
        limits = self._service.config.limits
        parsed = self._parsed(anthropic_request(jsonio.parse_object(body), limits, True).chat)
        with self._service.admit(1, len(body)):
            tokens = await self._service.link.count_tokens(parsed.body["messages"])
        return _reply({"input_tokens": tokens})

    async def responses(self, request: Request) -> ASGIApp:
        scope = self._scope(request)
        body = await self._body(request)
        asked = responses_request(jsonio.parse_object(body), self._service.config.limits)
        kept = b"[]"
        if asked.previous is not None:
            kept = self._service.replies.messages(scope, asked.previous)
        size_bytes = len(kept) + len(body)  # held to what it could be as input
        if size_bytes > self._service.config.limits.body_bytes:
            raise problems.too_long("The conversation and this request are too large together.")
        before: list[dict[str, Any]] = json.loads(kept)
        parsed = self._parsed(asked.joined(before))
        spoken = before + asked.chat["messages"]

        def keep(reply: str, response: dict[str, Any], said: list[dict[str, Any]]) -> None:
            if asked.store:
                self._service.replies.put(scope, reply, spoken + said, response)

        dialect: Dialect = ResponsesDialect(
            model=self._service.config.model_name,
            created_s=int(self._service.wall_s()),
            said=asked.said,
            random_bytes=self._service.random_bytes,
            keep=keep,
        )
        return AnswerResponse(self._service, parsed, dialect, scope, size_bytes)

    async def response(self, request: Request) -> Response:
        scope, _ = self._service.access.scope(request.headers)
        reply = request.path_params["reply"]
        if request.method == "DELETE":
            self._service.replies.forget(scope, reply)
            return _reply({"id": reply, "object": "response", "deleted": True})
        return _reply(self._service.replies.response(scope, reply))

    def _scope(self, request: Request) -> int:
        """The caller's key, which may ask for an answer now."""
        scope, share_bytes = self._service.access.scope(request.headers)
        self._service.watch.check(scope)
        self._service.access.check_share(scope, share_bytes, self._service.wall_s())
        return scope

    def _parsed(self, chat: dict[str, Any]) -> ChatRequest:
        return parse_chat(chat, self._service.config.model_name, self._service.config.limits)

    async def models(self, request: Request) -> Response:
        self._service.access.scope(request.headers)
        return _reply({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        self._service.access.scope(request.headers)
        if request.path_params["name"] != self._service.config.model_name:
            raise problems.unknown_model(request.path_params["name"], self._model()["id"])
        return _reply(self._model())

    def _model(self) -> dict[str, Any]:
        name = self._service.config.model_name
        return {"id": name, "object": "model", "created": 0, "owned_by": "narrows"}

    async def health(self, request: Request) -> Response:
        """200 where answers can be had, else 503; the body says why not."""
        link = self._service.link
        gate = link.gate_state.state
        late_s = link.decoder_late_s()
        good = link.up and gate == "ok" and not self._service.stopping and late_s <= LATE_S
        closed = self._service.watch.book.closed
        good = good and self._service.model == "ok" and not closed
        refusal = link.refusal.greeting.name if link.refusal else None
        body = {
            "status": "ok" if good else "unavailable",
            "link": "up" if link.up else "down",
            "gate": gate,
            "model": self._service.model,
            "alarm": "closed" if closed else "none",
            "decoder": "ok" if late_s <= LATE_S else "late",
            "decoder_late_s": round(late_s, 1),
            "refusal": refusal,
            "weak_model": link.weak.name,
            "weak_digest": link.weak.digest.hex(),
            "draining": link.draining,
        }
        return _reply(body, 200 if good else 503)

    async def other(self, request: Request) -> Response:
        self._service.access.scope(request.headers)
        body: dict[str, Any] = {}
        if request.headers.get("content-type", "").startswith("application/json"):
            body = jsonio.parse_object(await self._body(request))
        refusal = policy.refuse_endpoint(request.url.path, body)
        raise refusal or HTTPException(404)

    async def _body(self, request: Request) -> bytes:
        limits = self._service.config.limits
        limit = limits.body_bytes
        length = request.headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or len(length) > 12 or int(length) > limit:
            raise problems.body_too_large(limit)
        body = bytearray()
        try:
            async with asyncio.timeout(limits.body_s):
                async for part in request.stream():
                    body += part
                    if len(body) > limit:
                        raise problems.body_too_large(limit)
        except TimeoutError as error:
            raise problems.body_too_slow() from error
        return bytes(body)


def _reply(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(jsonio.dump(body), status, headers, media_type="application/json")


async def _on_api_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return _problem(request, error)


def _problem(request: Request, problem: ApiError) -> Response:
    """In the shape that the clients of its path read, and counted."""
    request.app.state.refused(problem)
    ours = request.url.path.startswith("/v1/messages")
    body = error_body(problem) if ours else problem.body()
    return _reply(body, problem.status, problem.headers())


async def _on_http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    wrong_method = status == 405
    code = "method_not_allowed" if wrong_method else "unknown_url"
    problem = ApiError(status, code, f"No such endpoint: {request.method} {_path(request)}.")
    return _problem(request, problem)


def _path(request: Request) -> str:
    return request.url.path[:100].encode("ascii", "backslashreplace").decode()


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return _problem(request, problems.client_gone())


async def _on_bug(request: Request, error: Exception) -> Response:
    """The traceback goes to the log; the client learns that it was not its fault."""
    problem = problems.server_error(500, "internal_error", "The edge failed.", retry=False)
    return _problem(request, problem)
