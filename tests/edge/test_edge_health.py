"""What /healthz says of a decoder that is behind, and of a strong model that does not answer."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

import narrows.edge.api.probe as probe_module
from narrows.edge.api.app import LATE_S, _Routes
from narrows.edge.api.probe import StrongModelProbe
from narrows.edge.link.redial import Redial


def health(
    late_s: float = 0.0, model: str = "ok", closed: bool = False
) -> tuple[int, dict[str, Any]]:
    link = SimpleNamespace(
        up=True,
        gate_state=SimpleNamespace(state="ok"),
        decoder_late_s=lambda: late_s,
        redial=Redial(),
        weak=SimpleNamespace(name="w", digest=b"x" * 32),
        draining=False,
    )
    watch = SimpleNamespace(book=SimpleNamespace(closed=closed))
    service: Any = SimpleNamespace(link=link, stopping=False, model=model, watch=watch)
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


def test_an_alarm_that_closes_the_edge_is_no_good_health() -> None:
    status, body = health(closed=True)
    assert (status, body["alarm"]) == (503, "closed")


class Asking(StrongModelProbe):
    """A probe whose questions get ``codes``, and answers behind them."""

    def __init__(self, *codes: str, probe: bool = True) -> None:
        self.looks = self.questions = 0
        self._codes = list(codes)
        service: Any = SimpleNamespace(config=SimpleNamespace(probe=probe), model="ok", link=self)
        super().__init__(service)

    @property
    def up(self) -> bool:
        """Of the link."""
        self.looks += 1
        return True

    gate_state = SimpleNamespace(state="ok")

    async def _code(self) -> str:
        self.questions += 1
        return self._codes.pop(0) if self._codes else ""


async def failing(probe: Asking) -> None:
    """A client whose requests fail, however often it asks."""
    answer: Any = SimpleNamespace(finish=None, error=SimpleNamespace(code="upstream_broke"))
    running = asyncio.create_task(probe.run())
    for _ in range(50):
        await asyncio.sleep(0.002)
        probe.heard(answer)
    running.cancel()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "FIRST_PAUSE_S", 1e-4)
    monkeypatch.setattr(probe_module, "MAX_PAUSE_S", 3600.0)


@pytest.mark.usefixtures("pauses")
def test_a_client_whose_requests_fail_cannot_make_the_edge_ask() -> None:
    asking = Asking()
    asyncio.run(failing(asking))
    assert asking.questions == 1


@pytest.mark.usefixtures("pauses")
def test_a_model_that_is_gone_is_asked_until_it_answers() -> None:
    asking = Asking("upstream_refused", "overloaded", "upstream_slow")
    asyncio.run(failing(asking))
    assert asking.questions == 4


def test_an_edge_that_is_not_to_ask_does_not_wake() -> None:
    asking = Asking(probe=False)
    asyncio.run(failing(asking))
    assert (asking.looks, asking.questions) == (0, 0)
