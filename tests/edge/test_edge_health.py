"""What /healthz says of a decoder that is behind."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from narrows.edge.api.app import LATE_S, _Routes


@pytest.mark.parametrize(("late_s", "status"), [(0.0, 200), (LATE_S, 200), (LATE_S + 1, 503)])
def test_a_decoder_that_is_late_is_no_good_health(late_s: float, status: int) -> None:
    link = SimpleNamespace(
        up=True,
        gate_state=SimpleNamespace(state="ok"),
        decoder_late_s=lambda: late_s,
        refusal=None,
        weak=SimpleNamespace(name="w", digest=b"x" * 32),
        draining=False,
    )
    service: Any = SimpleNamespace(link=link, stopping=False)
    request: Any = None
    reply = asyncio.run(_Routes(service).health(request))
    body = json.loads(bytes(reply.body))
    assert reply.status_code == status
    assert body["decoder"] == ("ok" if status == 200 else "late")
    assert body["decoder_late_s"] == late_s
