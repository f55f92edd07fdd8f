"""What stands before the routes: which web pages may read a reply.

A browser lets a page read a reply only where the reply names the page's origin. Starlette answers
preflights, which carry no key, and marks replies, streams included. What browsers send without
asking first is refused in ``access.py``: a page that is not named spends nothing.
"""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from narrows.edge.config import EdgeConfig

PREFLIGHT_S = 600
_READABLE = ("retry-after", "x-should-retry")


def make_front(app: ASGIApp, config: EdgeConfig) -> ASGIApp:
    """``app`` as clients see it."""
    if not config.cors_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=config.cors_origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=_READABLE,
        max_age=PREFLIGHT_S,
    )
