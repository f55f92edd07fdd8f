"""The routes of the API."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from narrows import __version__
from narrows.edge import problems
from narrows.edge.api import jsonio, policy
from narrows.edge.api.answering import AnswerResponse
from narrows.edge.api.front import record_of
from narrows.edge.api.prompts import completion_prompts
from narrows.edge.api.request import ChatRequest, parse_chat, parse_completion
from narrows.edge.api.service import Service
from narrows.edge.books.keys import FoundKey
from narrows.edge.dialects.anthropic import AnthropicDialect
from narrows.edge.dialects.anthropic_request import anthropic_request, error_body
from narrows.edge.dialects.chat import ChatDialect
from narrows.edge.dialects.choices import ChoicesHead
from narrows.edge.dialects.completions import CompletionsDialect
from narrows.edge.dialects.dialect import Dialect
from narrows.edge.dialects.responses import ResponsesDialect
from narrows.edge.dialects.responses_request import responses_request
from narrows.edge.models import EdgeModel
from narrows.edge.problems import ApiError

HEALTH_PATHS = ("/healthz", "/health", "/v1/health", "/ping")
METRICS_ELSEWHERE = (
    "The edge shows no metrics. A process of its own does, 'narrows metrics': docs/metrics.md\n"
)


def make_app(service: Service) -> Starlette:
    """The ASGI application of one edge."""
    routes = _Routes(service)
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/completions", routes.completions, methods=["POST"]),
            Route("/v1/messages", routes.messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", routes.count_tokens, methods=["POST"]),
            Route("/v1/responses", routes.responses, methods=["POST"]),
            Route("/v1/responses/{reply}", routes.response, methods=["GET", "DELETE"]),
            Route("/v1/models", routes.models, methods=["GET"]),
            Route("/v1/models/{name:path}", routes.model, methods=["GET"]),
            *(Route(path, routes.health, methods=["GET"]) for path in HEALTH_PATHS),
            Route("/version", routes.version, methods=["GET"]),
            Route("/metrics", _metrics, methods=["GET"]),
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
    app.router.redirect_slashes = False  # ``front.py`` takes them off
    return app


class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def chat(self, request: Request) -> ASGIApp:
        scope = self._scope(request)
        body = await self._body(request)
        model, parsed = self._parsed(jsonio.parse_object(body))
        dialect = ChatDialect(parsed.n, self._head(model, parsed))
        return AnswerResponse(self._service, model, parsed, dialect, scope, len(body))

    async def completions(self, request: Request) -> ASGIApp:
        scope = self._scope(request)
        body = await self._body(request)
        data = jsonio.parse_object(body)
        limits, service = self._service.config.limits, self._service
        model, route = service.models.pick(data.get("model"))
        if route != "strong":
            raise problems.unknown_model(data["model"], [model.name])
        with service.admit(1, len(body)):  # ids wait for the weak model
            prompts = await completion_prompts(data.get("prompt"), limits, model.link)
        parsed = parse_completion(data | {"model": model.name}, prompts, model.name, limits)
        dialect = CompletionsDialect(parsed.n, self._head(model, parsed))
        size_bytes = -(-len(body) // len(prompts))
        return AnswerResponse(service, model, parsed, dialect, scope, size_bytes)

    async def messages(self, request: Request) -> ASGIApp:
        scope = self._scope(request)
        body = await self._body(request)
        asked = anthropic_request(jsonio.parse_object(body), self._service.config.limits)
        model, parsed = self._parsed(asked.chat)
        dialect = AnthropicDialect(
            model=model.name,
            thinking=asked.thinking,
            random_bytes=self._service.random_bytes,
        )
        return AnswerResponse(self._service, model, parsed, dialect, scope, len(body))

    async def count_tokens(self, request: Request) -> Response:
        """By the weak model's tokens, which are the strong one's where its answers cross as ids."""
        self._counted(request)
        body = await self._body(request)
        limits = self._service.config.limits
        asked = anthropic_request(jsonio.parse_object(body), limits, True)
        model, parsed = self._parsed(asked.chat)
        with self._service.admit(1, len(body)):
            tokens = await model.link.count_tokens(parsed.body["messages"])
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
        model, parsed = self._parsed(asked.joined(before))
        spoken = before + asked.chat["messages"]

        def keep(reply: str, response: dict[str, Any], said: list[dict[str, Any]]) -> None:
            if asked.store:
                self._service.replies.put(scope, reply, spoken + said, response)

        dialect: Dialect = ResponsesDialect(
            model=model.name,
            created_s=int(self._service.wall_s()),
            said=asked.said,
            random_bytes=self._service.random_bytes,
            keep=keep,
        )
        return AnswerResponse(self._service, model, parsed, dialect, scope, size_bytes)

    async def response(self, request: Request) -> Response:
        scope = self._caller(request).key_id
        reply = request.path_params["reply"]
        if request.method == "DELETE":
            self._service.replies.forget(scope, reply)
            return _reply({"id": reply, "object": "response", "deleted": True})
        return _reply(self._service.replies.response(scope, reply))

    def _head(self, model: EdgeModel, parsed: ChatRequest) -> ChoicesHead:
        service = self._service
        return ChoicesHead(
            model.name,
            int(service.wall_s()),
            model.fingerprint,
            parsed.include_usage,
            service.random_bytes,
        )

    def _caller(self, request: Request) -> FoundKey:
        """Raises ApiError."""
        found = self._service.access.scope(request.headers)
        record_of(request.scope).key_id = found.key_id
        return found

    def _counted(self, request: Request) -> FoundKey:
        """The caller, one of whose requests of this minute this is. Raises ApiError."""
        found = self._caller(request)
        headers = record_of(request.scope).headers
        self._service.rates.enter(found.key_id, found.limits, headers)
        return found

    def _scope(self, request: Request) -> int:
        """The caller's key, which may ask for an answer now."""
        found = self._counted(request)
        self._service.alarms.check(found.key_id)
        self._service.access.check_share(found, self._service.wall_s())
        return found.key_id

    def _parsed(self, chat: dict[str, Any]) -> tuple[EdgeModel, ChatRequest]:
        """Raises ApiError."""
        config = self._service.config
        model, route = self._service.models.pick(chat.get("model"))
        parsed = parse_chat(chat | {"model": model.name}, model.name, config.limits)
        return model, replace(parsed.shortened(config.concise), route=route)

    async def models(self, request: Request) -> Response:
        self._caller(request)
        service = self._service
        found = [service.models.entry(name, service.started_s) for name in service.models.names]
        return _reply({"object": "list", "data": found})

    async def model(self, request: Request) -> Response:
        self._caller(request)
        name = request.path_params["name"]
        return _reply(self._service.models.entry(name, self._service.started_s))

    async def health(self, request: Request) -> Response:
        """200 where answers can be had, else 503; the body says why not."""
        name = request.query_params.get("model")
        if name is not None and len(self._service.models.all) > 1:
            model, _ = self._service.models.pick(name)
            body = self._service.health([model])
        else:
            body = self._service.health(self._service.models.all)
        return _reply(body, 503 if body["status"] == "unavailable" else 200)

    async def version(self, request: Request) -> Response:
        self._caller(request)
        return _reply({"version": __version__})

    async def other(self, request: Request) -> Response:
        self._caller(request)
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


async def _metrics(request: Request) -> Response:
    """The way to them, for anyone: it says nothing of this edge."""
    return Response(METRICS_ELSEWHERE, 404, media_type="text/plain")


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
