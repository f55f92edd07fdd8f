"""Token ids from a server that draws with the link's noise, or not: real HTTP, a real process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enclave.fake_vllm import CONTEXT, EOS, HELD, MODES, logits_of
from enclave.strong_folder import VOCAB, seen, serving, switch, write_folder
from narrows.coding.events import (
    Coding,
    Event,
    Failed,
    Failure,
    Finish,
    Finished,
    Opened,
    Text,
    Tokens,
    Usage,
)
from narrows.enclave.backend import BackendRequest
from narrows.enclave.chunks import ServerError
from narrows.enclave.config import EnclaveConfig, UpstreamConfig
from narrows.enclave.models import make_backend
from narrows.enclave.modelserver import ModelServer
from narrows.enclave.server import EnclaveServer
from narrows.enclave.tokens.backend import TokenBackend
from narrows.enclave.tokens.probe import Capability, ServerProbe
from narrows.enclave.tokens.standing import Standing
from narrows.enclave.tokens.strong import StrongText
from narrows.enclave.upstream import UpstreamBackend
from narrows.errors import InputError, PeerError
from narrows.models.bytemodel import ByteModel
from narrows.models.shelf.shelf import Shelf
from narrows_vllm.pick import Shape, pick

KEY = bytes(range(32))
MESSAGES = [{"role": "user", "content": "What leaves?"}]


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with serving(folder) as url:
        yield url


def counted() -> Callable[[int], bytes]:
    """Coins of a test: other ones each time, the same in each run."""
    calls = iter(range(1000))
    return lambda size: next(calls).to_bytes(size, "big")


class Case:
    """A backend on the fake server, and what it is asked."""

    def __init__(self, url: str, model: str, strong: StrongText, **changes: Any) -> None:
        config = UpstreamConfig(url=url, model=model, **changes)
        self.strong = strong
        server = ModelServer(config)
        probe = ServerProbe(server, config, strong, counted())
        self.standing = Standing(probe, coupling=config.noise != "none", pause_s=0.01)
        self.backend = TokenBackend(config, server, strong, self.standing)

    def request(self, resume: tuple[int, ...] = (), **body: Any) -> BackendRequest:
        whole = {"messages": MESSAGES, "max_tokens": 40, "temperature": 1.0} | body
        return BackendRequest(whole, KEY, resume, tokenizer=self.strong.tokenizer.digest)

    async def answer(self, resume: tuple[int, ...] = (), **body: Any) -> list[Event]:
        events = self.backend.generate(self.request(resume, **body))
        return [event async for event in events]

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not done():
                await asyncio.sleep(0.01)


def run(case: Case, test: Callable[[Case], Awaitable[None]]) -> None:
    async def go() -> None:
        try:
            await case.backend.start()
            await case.standing.settled()
            await test(case)
        finally:
            await case.backend.close()

    asyncio.run(go())


def ids(events: list[Event]) -> list[int]:
    return [i for event in events if isinstance(event, Tokens) for i in event.ids]


def expected(
    strong: StrongText, count: int, *, temperature: float = 1.0, top_p: float = 1.0
) -> list[int]:
    """What the server must say with the key, up to its end."""
    prompt = strong.chat.render(MESSAGES)
    out: list[int] = []
    while len(out) < count:
        row = logits_of([*prompt, *out], VOCAB)
        token = pick(row, KEY, len(out), Shape(temperature, top_p))
        assert token is not None
        if token in EOS:
            break
        out.append(token)
    return out


def test_a_coupled_answer_is_the_noises(url: str, strong: StrongText) -> None:
    async def check(case: Case) -> None:
        assert case.standing.now.coupled
        assert case.standing.now.context == CONTEXT
        for shape in ({"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}):
            events = await case.answer(max_tokens=400, **shape)
            want = expected(strong, 400, **shape)
            assert events[0] == Opened(Coding.COUPLED)
            assert ids(events) == want
            prompt = len(strong.chat.render(MESSAGES))
            assert events[-2] == Usage(prompt, len(want))
            assert events[-1] == Finished(Finish.STOP)
            assert want
        cut = await case.answer(max_tokens=3)
        assert ids(cut) == expected(strong, 3)
        assert cut[-1] == Finished(Finish.LENGTH)
        last = seen(url)[-1]
        assert "logprobs" not in last
        assert last["vllm_xargs"] == {"narrows_key": KEY.hex(), "narrows_position": 0}

    run(Case(url, "coupled", strong), check)


@pytest.mark.parametrize(
    ("mode", "ids_", "coupled", "why"),
    [
        ("coupled", True, True, "luck of 64"),
        ("ignores", True, False, "is narrows-vllm there"),
        ("wrong-key", True, False, "is narrows-vllm there"),
        ("refuses-key", True, False, "refuses the key"),
        ("no-ids", False, False, "does not say the ids"),
        ("other-words", False, False, "mean other text"),
        ("other-prompt", False, False, "another prompt"),
    ],
)
def test_the_probe_says_what_a_server_can(
    url: str, strong: StrongText, mode: str, ids_: bool, coupled: bool, why: str
) -> None:
    async def check(case: Case) -> None:
        verdict = case.standing.now
        assert (verdict.ids, verdict.coupled, verdict.reached) == (ids_, coupled, True)
        assert why in verdict.why
        events = await case.answer(max_tokens=20)
        coding = Coding.COUPLED if coupled else Coding.PLAIN if ids_ else Coding.TEXT
        assert events[0] == Opened(coding)
        assert isinstance(events[-1], Finished)
        row = seen(url)[-1]
        assert row["path"] == ("completions" if ids_ else "chat")
        assert ("vllm_xargs" in row) == coupled

    assert mode in MODES
    run(Case(url, mode, strong), check)


def test_what_ids_cannot_carry_goes_as_text(url: str, strong: StrongText) -> None:
    async def check(case: Case) -> None:
        tool = {"type": "function", "function": {"name": "f"}}
        url_ = "data:image/png;base64,AAAA"
        image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url_}}]}
        used = [*MESSAGES, {"role": "tool", "content": "4", "tool_call_id": "1"}]
        for body in (
            {"tools": [tool]},
            {"messages": [image]},
            {"messages": used},
        ):
            events = await case.answer(**body)
            assert events[:2] == [Opened(Coding.TEXT), Text(b"as text")], body
        foreign = replace(case.request(), tokenizer=ByteModel().tokenizer.digest)
        events = [event async for event in case.backend.generate(foreign)]
        assert events[0] == Opened(Coding.TEXT)
        assert case.backend.figures()["answers_text"] == 4

    run(Case(url, "coupled", strong, images=True), check)


def test_parameters_of_the_draw_go_by_ids_and_others_as_text(url: str, strong: StrongText) -> None:
    async def check(case: Case) -> None:
        shaped = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 2}
        shaped |= {"logit_bias": {"5": 1.0}, "presence_penalty": 0.5}
        events = await case.answer(**shaped, ignore_eos=False)
        assert events[0] == Opened(Coding.COUPLED)
        row = seen(url)[-1]
        assert {name: row[name] for name in shaped} == shaped
        assert row["priority"] == 1, "the operator's own words"
        for body in ({"ignore_eos": True}, {"stop_token_ids": [5]}, {"guided_regex": "a+"}):
            assert (await case.answer(**body))[0] == Opened(Coding.TEXT), body
        assert seen(url)[-1]["body"]["structured_outputs"] == {"regex": "a+"}
        assert seen(url)[-1]["body"]["priority"] == 1
        refused = await case.answer(typical_p=0.5)
        assert refused[-1] == Failed(Failure.BAD_REQUEST)

    run(Case(url, "coupled", strong, server="vllm", extra_body={"priority": 1}), check)


def test_the_servers_prefix_cache_is_each_scopes_own(url: str, strong: StrongText) -> None:
    async def check(case: Case) -> None:
        salts = []
        for scope in (1, 1, 2):
            request = replace(case.request(max_tokens=1), scope=scope)
            assert [event async for event in case.backend.generate(request)]
            salts.append(seen(url)[-1]["cache_salt"])
        assert salts[0] == salts[1] != salts[2]
        assert len(salts[0]) == 64

    run(Case(url, "coupled", strong), check)


def test_greedy_takes_no_key_and_noise_none_no_probe_of_it(url: str, strong: StrongText) -> None:
    async def greedy(case: Case) -> None:
        events = await case.answer(temperature=0, max_tokens=5)
        assert events[0] == Opened(Coding.PLAIN)
        assert len(ids(events)) == 5
        assert "vllm_xargs" not in seen(url)[-1]

    async def none(case: Case) -> None:
        assert case.standing.now.ids
        assert not case.standing.now.coupled
        assert (await case.answer())[0] == Opened(Coding.PLAIN)

    run(Case(url, "coupled", strong), greedy)
    before = len(seen(url))
    run(Case(url, "coupled", strong, noise="none"), none)
    assert not [row for row in seen(url)[before:] if "vllm_xargs" in row]


def test_a_resumed_answer_goes_on_as_it_was(
    url: str, strong: StrongText, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("narrows.enclave.backend.DEFAULT_MAX_TOKENS", 30)

    async def check(case: Case) -> None:
        whole = ids(await case.answer(max_tokens=30))
        for cut in (1, len(whole) // 2):
            events = await case.answer(tuple(whole[:cut]), max_tokens=30)
            assert ids(events) == whole[cut:]
            assert events[-2] == Usage(len(strong.chat.render(MESSAGES)), len(whole))
            row = seen(url)[-1]
            assert row["vllm_xargs"]["narrows_position"] == cut
            assert row["max_tokens"] == 30 - cut
            assert row["prompt"][-cut:] == whole[:cut]
        await case.answer(tuple(whole[:5]), max_tokens=None)
        assert seen(url)[-1]["max_tokens"] == 25
        monkeypatch.setattr("narrows.enclave.backend.DEFAULT_MAX_TOKENS", len(whole))
        full = await case.answer(tuple(whole), max_tokens=None)
        assert full == [Opened(Coding.PLAIN), Finished(Finish.LENGTH)]
        full = await case.answer(tuple(whole), max_tokens=len(whole))
        assert full == [Opened(Coding.PLAIN), Finished(Finish.LENGTH)]

    run(Case(url, "coupled", strong), check)


def test_an_answer_ends_where_a_stop_string_does(url: str, strong: StrongText) -> None:
    async def check(case: Case) -> None:
        whole = expected(strong, HELD)
        text = b"".join(map(strong.tokenizer.token_bytes, whole)).decode("utf-8", "replace")
        plain = "".join(c for c in text if " " <= c <= "~")
        stop = next(text[k : k + 3] for k in range(8, len(text)) if text[k : k + 3] in plain)
        events = await case.answer(max_tokens=200, stop=[stop])
        said = ids(events)
        assert said == whole[: len(said)]
        assert len(said) < HELD
        shown = b"".join(map(strong.tokenizer.token_bytes, said)).decode("utf-8", "replace")
        assert text.find(stop) == shown.find(stop)
        before = b"".join(map(strong.tokenizer.token_bytes, said[:-1])).decode("utf-8", "replace")
        assert stop not in before
        assert events[-1] == Finished(Finish.STOP)
        assert "stop" not in seen(url)[-1]
        await case.until(lambda: seen(url)[-1]["end"] == "aborted")

    run(Case(url, "holds", strong), check)


def test_a_cancel_frees_the_server_at_once(url: str, strong: StrongText) -> None:
    async def check(case: Case) -> None:
        events: AsyncGenerator[Event, None] = case.backend.generate(case.request(max_tokens=400))
        for _ in range(3):
            await anext(events)
        await events.aclose()
        await case.until(lambda: seen(url)[-1]["end"] == "aborted")

    run(Case(url, "holds", strong), check)


def test_prompts_that_do_not_fit(url: str, strong: StrongText) -> None:
    async def check(case: Case) -> None:
        long = [{"role": "user", "content": "x y " * CONTEXT}]
        assert await case.answer(messages=long) == [
            Opened(Coding.PLAIN),
            Failed(Failure.PROMPT_TOO_LONG),
        ]
        events = await case.answer(max_tokens=100_000)
        assert isinstance(events[-1], Finished)
        prompt = seen(url)[-1]["prompt"]
        assert seen(url)[-1]["max_tokens"] == CONTEXT - len(prompt)

    run(Case(url, "coupled", strong), check)


def test_a_server_that_comes_back_without_the_plugin_is_noticed(
    url: str, strong: StrongText, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "narrows.enclave.upstream")

    async def check(case: Case) -> None:
        assert (await case.answer())[0] == Opened(Coding.COUPLED)
        switch(url, "down")
        assert (await case.answer())[-1] == Failed(Failure.UPSTREAM_REFUSED)
        assert not case.standing.now.coupled
        switch(url, "ignores")
        case.standing.lost()
        await case.until(lambda: "is narrows-vllm there" in case.standing.now.why)
        assert (await case.answer())[0] == Opened(Coding.PLAIN)
        switch(url, "coupled")
        case.standing.lost()
        await case.until(lambda: case.standing.now.coupled)
        assert (await case.answer())[0] == Opened(Coding.COUPLED)
        assert "not coupled: the server draws without the key" in caplog.text
        assert "token ids, coupled" in caplog.text

    switch(url, "coupled")
    run(Case(url, "switch", strong), check)


def test_a_server_that_stops_coupling_is_noticed_while_it_serves(
    url: str, strong: StrongText, caplog: pytest.LogCaptureFixture
) -> None:
    async def check(case: Case) -> None:
        switch(url, "ignores")
        codings = []
        for _ in range(40):
            events = await case.answer(max_tokens=100)
            codings.append(events[0])
            assert isinstance(events[-1], Finished)
            if not case.standing.now.coupled:
                break
        assert set(codings) == {Opened(Coding.COUPLED)}
        await case.until(lambda: case.standing.probes > 1)
        assert (await case.answer())[0] == Opened(Coding.PLAIN)
        assert "no trace of their keys" in caplog.text

    switch(url, "coupled")
    run(Case(url, "switch", strong), check)


def test_required_refuses_to_start(url: str, folder: Path, strong: StrongText) -> None:
    def config(**changes: Any) -> EnclaveConfig:
        fields: dict[str, Any] = {"url": url, "folder": folder, "tokens": "required"}
        upstream = UpstreamConfig(**(fields | changes))
        return EnclaveConfig(listen="127.0.0.1:0", upstream=upstream)

    async def start(config: EnclaveConfig) -> None:
        server = EnclaveServer(config, make_backend(config), {})
        try:
            await server.start()
        finally:
            await server.stop()

    asyncio.run(start(config(model="coupled").check()))
    asyncio.run(start(config(model="ignores", noise="none")))
    for model, words in (("ignores", "is narrows-vllm there"), ("no-ids", "does not say the ids")):
        with pytest.raises(PeerError, match=words):
            asyncio.run(start(config(model=model)))
    nobody = config(model="m", url="http://127.0.0.1:9/v1", first_token_timeout_s=0.5)
    with pytest.raises(PeerError, match="cannot be reached"):
        asyncio.run(start(nobody))
    with pytest.raises(InputError) as refused:
        config(model="m", folder=None).check()
    assert "needs folder" in refused.value.problems[0]
    with pytest.raises(InputError, match="no weak model has the tokenizer"):
        make_backend(config(model="coupled"), Shelf.of([ByteModel()]))


def test_what_keeps_a_model_on_text_is_said(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "narrows.enclave.upstream")
    thinks = write_folder(tmp_path / "thinks", template="{{ '[THINK]' }}")
    bare = write_folder(tmp_path / "bare", template="")
    shelf = Shelf.of([ByteModel()])
    for where, weak, words in (
        (None, None, "folder does not say"),
        (thinks, None, "writes [THINK]"),
        (bare, None, "no chat template"),
        (tmp_path / "nowhere", None, "cannot read config.json"),
        (folder, shelf, "no weak model has the tokenizer"),
    ):
        caplog.clear()
        config = EnclaveConfig(upstream=UpstreamConfig("http://127.0.0.1:9/v1", "m", folder=where))
        assert isinstance(make_backend(config, weak), UpstreamBackend)
        assert words in caplog.text
    caplog.clear()
    off = UpstreamConfig("http://127.0.0.1:9/v1", "m", folder=folder, tokens="off")
    assert isinstance(make_backend(EnclaveConfig(upstream=off)), UpstreamBackend)
    assert not caplog.text


def test_the_servers_word_on_its_context_is_the_limit(url: str, folder: Path) -> None:
    short = StrongText(folder)
    short.context = CONTEXT // 2  # a server can stretch what the folder says

    async def check(case: Case) -> None:
        assert case.standing.now.context == CONTEXT

    run(Case(url, "coupled", short), check)


def test_a_server_that_is_not_up_behind_its_proxy_is_not_there(
    url: str, strong: StrongText
) -> None:
    async def check(case: Case) -> None:
        assert not case.standing.now.reached
        assert "it starts" in case.standing.now.why

    switch(url, "bad-gateway")
    run(Case(url, "switch", strong), check)


def test_a_template_that_refuses_the_probe_is_said(url: str, tmp_path: Path) -> None:
    wants = (
        "{% if messages[0].role != 'system' %}{{ raise_exception('no system turn') }}{% endif %}x"
    )
    strong = StrongText(write_folder(tmp_path, template=wants))

    async def check(case: Case) -> None:
        assert not case.standing.now.ids
        assert "no system turn" in case.standing.now.why
        assert case.standing.probes == 1

    run(Case(url, "coupled", strong), check)


def test_a_probe_that_fails_leaves_nothing_running(url: str, strong: StrongText) -> None:
    config = UpstreamConfig(url=url, model="coupled", noise="narrows")
    left: list[str] = []

    class Probe(ServerProbe):
        async def _ask(self, key: bytes | None, **_: Any) -> Any:
            if key is None:
                assert left == ["cancelled"]
                raise ServerError(Failure.INTERNAL, "asked without a key")
            if key[-1] == 0:
                await asyncio.sleep(0)
                raise ServerError(Failure.UPSTREAM_REJECTED, "no such field")
            try:
                await asyncio.Event().wait()
            finally:
                left.append("cancelled")

    async def go() -> None:
        server = ModelServer(config)
        verdict = await Probe(server, config, strong, counted())()
        await server.close()
        assert "asked without a key" in verdict.why

    asyncio.run(go())


def test_a_server_that_cannot_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without coupling too: no answer fails because of it, so nothing else would ask."""
    monkeypatch.setattr("narrows.enclave.tokens.standing.AGAIN_S", 0.01)

    async def go() -> None:
        verdicts = [Capability(False, False, "not yet"), Capability(True, False, "now")]

        async def probe() -> Capability:
            return verdicts.pop(0)

        standing = Standing(probe, coupling=False, pause_s=0.0)
        standing.start()
        async with asyncio.timeout(10):
            while not standing.now.ids:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert standing.probes == 2
        await standing.stop()

    asyncio.run(go())


def test_a_bug_in_the_probe_does_not_hold_answers() -> None:
    async def go() -> None:
        async def broken() -> Capability:
            raise RuntimeError

        standing = Standing(broken)
        standing.start()
        async with asyncio.timeout(10):
            assert not (await standing.settled()).ids
        await standing.stop()

    asyncio.run(go())
