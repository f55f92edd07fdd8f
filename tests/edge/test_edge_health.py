"""What /healthz says of a decoder that is behind, and of a strong model that does not answer."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from narrows.edge.api.app import LATE_S, _Routes


def health(late_s: float = 0.0, model: str = "ok") -> tuple[int, dict[str, Any]]:
    link = SimpleNamespace(
        up=True,
        gate_state=SimpleNamespace(state="ok"),
        decoder_late_s=lambda: late_s,
        refusal=None,
        weak=SimpleNamespace(name="w", digest=b"x" * 32),
        draining=False,
    )
    service: Any = SimpleNamespace(link=link, stopping=False, model=model)
    request: Any = None
    reply = asyncio.run(_Routes(service).health(request))
    return reply.status_code, json.loads(bytes(reply.body))


@pytest.mark.parametrize("model", ["unknown", "down"])
def test_a_model_that_does_not_answer_is_no_good_health(model: str) -> None:
    status, body = health(model=model)
    assert (status, body["status"], body["model"]) == (503, "unavailable", model)


@pytest.mark.parametrize(("late_s", "status"), [(0.0, 200), (LATE_S, 200), (LATE_S + 1, 503)])
def test_a_decoder_that_is_late_is_no_good_health(late_s: float, status: int) -> None:
    found, body = health(late_s)
    assert found == status
    assert body["decoder"] == ("ok" if status == 200 else "late")
    assert body["decoder_late_s"] == late_s
