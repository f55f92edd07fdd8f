"""The built-in model's parameters: what each does to the draw, and forms that hold."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enclave.test_builtin import artifact, collect, ids, request, with_backend
from narrows.coding.events import Failed, Failure, Finish, Finished
from narrows.coding.tokens.sampler import sample
from narrows.enclave.backend import BackendRequest
from narrows.enclave.builtin import BuiltinBackend
from narrows.enclave.draw.shaping import Shaping
from narrows.errors import InputError

__all__ = ["artifact"]

ONE = 1 << 16
ENDS = frozenset({0})
LOGITS = np.array([0, 5, 4, 4, 4, -3, 1, -8], np.int32) * ONE
KEY = bytes(range(32))


def shaping(temperature: float = 1.0, prompt: list[int] | None = None, **body: Any) -> Shaping:
    return Shaping(body, prompt or [], len(LOGITS), ENDS, round(temperature * ONE))


def kept(shaped: Any) -> list[int]:
    return [int(i) for i in np.flatnonzero(shaped > -(1 << 29))]


def test_top_k_takes_the_lower_ids_of_equals() -> None:
    assert kept(shaping(top_k=3).shaped(LOGITS, 0)) == [1, 2, 3]
    assert kept(shaping(top_k=1).shaped(LOGITS, 0)) == [1]
    assert kept(shaping(top_k=99).shaped(LOGITS, 0)) == list(range(8))


def test_min_p_is_of_the_best_at_the_temperature() -> None:
    assert kept(shaping(min_p=0.5).shaped(LOGITS, 0)) == [1, 2, 3, 4]  # one bit below: half
    assert kept(shaping(min_p=0.51).shaped(LOGITS, 0)) == [1]
    assert kept(shaping(2.0, min_p=0.25).shaped(LOGITS, 0)) == [1, 2, 3, 4, 6]
    assert kept(shaping(min_p=1.0).shaped(LOGITS, 0)) == [1]


def test_penalties_count_what_came_and_the_prompt() -> None:
    one = shaping(frequency_penalty=1.0, presence_penalty=0.5)
    for token in (1, 1, 2):
        one.took(token)
    moved = (one.shaped(LOGITS, 3).astype(np.int64) - LOGITS).astype(float) / ONE
    moved -= moved[7]
    nat = np.log2(np.e)
    assert np.allclose(moved[[1, 2, 3]], [-2.5 * nat, -1.5 * nat, 0], atol=1e-4)
    two = shaping(repetition_penalty=2.0, prompt=[1, 7])
    values = two.shaped(LOGITS, 0).astype(float) / ONE
    assert np.allclose(values - values[2], [-4, -1.5, 0, 0, 0, -7, -3, -20])


def test_a_bias_forces_or_forbids() -> None:
    assert np.argmax(shaping(logit_bias={"7": 100}).shaped(LOGITS, 0)) == 7
    banned = shaping(logit_bias={"1": -100}).shaped(LOGITS, 0)
    drawn = {sample(banned, ONE, ONE, KEY, n) for n in range(300)}
    assert 1 not in drawn
    assert len(drawn) > 2
    with pytest.raises(InputError, match="no token 8"):
        shaping(logit_bias={"8": 1})


def test_ends_wait_and_are_ignored() -> None:
    late = shaping(min_tokens=2, stop_token_ids=[1])
    assert [kept(late.shaped(LOGITS, at))[:2] for at in (0, 2)] == [[2, 3], [0, 1]]
    assert late.ends == {0, 1}
    never = shaping(ignore_eos=True)
    assert 0 not in kept(never.shaped(LOGITS, 5))
    assert not never.ends
    with pytest.raises(InputError, match="no token may come"):
        Shaping({"ignore_eos": True}, [], 1, ENDS, ONE).shaped(LOGITS[:1], 0)


def test_what_changes_nothing_is_idle() -> None:
    assert shaping(top_k=-1, min_p=0, repetition_penalty=1, logit_bias={}, min_tokens=0).idle
    assert not shaping(top_k=2).idle


def test_masked_tokens_are_drawn_at_no_temperature() -> None:
    for temperature in (0.0, 0.1, 2.0):
        shaped = shaping(temperature or 1.0, top_k=3).shaped(LOGITS, 0)
        drawn = {sample(shaped, round(temperature * ONE), ONE, KEY, n) for n in range(300)}
        assert drawn <= {1, 2, 3}


def test_the_model_heeds_them_and_goes_on_alike(artifact: Path) -> None:
    asked = {"top_k": 20, "min_p": 0.01, "presence_penalty": 1, "repetition_penalty": 1.3}

    async def check(backend: BuiltinBackend) -> None:
        plain = ids(await collect(backend, request(key=9)))
        wanted = request(key=9, ignore_eos=True, **asked)
        whole = ids(await collect(backend, wanted))
        assert len(whole) == 12
        assert whole != plain
        resumed = BackendRequest(wanted.body, wanted.noise_key, tuple(whole[:5]))
        assert ids(await collect(backend, resumed)) == whole[5:]
        greedy = ids(await collect(backend, request(temperature=0, ignore_eos=True)))
        assert ids(await collect(backend, request(top_k=1, ignore_eos=True))) == greedy
        stopped = await collect(backend, request(temperature=0, stop_token_ids=[greedy[2]]))
        at = greedy.index(greedy[2])
        assert ids(stopped) == greedy[:at]
        assert stopped[-1] == Finished(Finish.STOP)
        banned = {"logit_bias": {str(greedy[0]): -100}}
        assert ids(await collect(backend, request(temperature=0, **banned)))[0] != greedy[0]

    with_backend(artifact, check)


def test_what_it_does_not_heed_is_refused(artifact: Path) -> None:
    async def check(backend: BuiltinBackend) -> None:
        for body in (
            {"typical_p": 0.5},
            {"grammar": 'root ::= "a"'},
            {"chat_template_kwargs": {"enable_thinking": True}},
            {"top_k": "x"},
            {"logprobs": True},
            {"logit_bias": {"999999": 1}},
            {"guided_regex": "(a"},
            {"guided_json": {"not": {"type": "string"}}},
            {"guided_json": {"type": "object"}, "ignore_eos": True},
            {"response_format": {"type": "json_schema"}},
        ):
            assert (await collect(backend, request(**body)))[-1] == Failed(Failure.BAD_REQUEST)

    with_backend(artifact, check)


def test_no_request_fails_its_neighbours(artifact: Path) -> None:
    async def check(backend: BuiltinBackend) -> None:
        odd = [request(top_p=0.0), request(guided_regex="[0-9]{3}"), request(typical_p=0.5)]
        several = await asyncio.gather(*(collect(backend, one) for one in [request(), *odd]))
        assert isinstance(several[0][-1], Finished)
        assert isinstance(several[1][-1], Finished), "a nucleus of nothing is the best token"

    with_backend(artifact, check)


def said(backend: BuiltinBackend, events: Any) -> str:
    assert backend.tokenizer is not None
    return b"".join(map(backend.tokenizer.token_bytes, ids(events))).decode()


def test_forms_hold(artifact: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["x"]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    named = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}

    async def check(backend: BuiltinBackend) -> None:
        for key in range(4):
            for form in (
                {"response_format": named},
                {"guided_json": schema},
                {"structured_outputs": {"json": schema}},
                {"response_format": {"type": "json_object", "schema": schema}},
            ):
                events = await collect(backend, request(key=key, max_tokens=60, **form))
                found = json.loads(said(backend, events))
                assert found.keys() == {"a", "b"}
                assert 0 <= found["a"] <= 99
                assert events[-1] == Finished(Finish.STOP)
            events = await collect(backend, request(key=key, guided_choice=["yes", 'n"o']))
            assert said(backend, events) in ("yes", 'n"o')
            events = await collect(backend, request(key=key, guided_regex="[0-9]{3}"))
            assert said(backend, events).isdigit()
            wanted = request(key=key, max_tokens=60, response_format=named)
            whole = ids(await collect(backend, wanted))
            resumed = BackendRequest(wanted.body, wanted.noise_key, tuple(whole[:4]))
            assert ids(await collect(backend, resumed)) == whole[4:]

    with_backend(artifact, check)


def test_a_raw_prompt_is_read_as_it_is(artifact: Path) -> None:
    async def check(backend: BuiltinBackend) -> None:
        body = {"prompt": "Once upon", "max_tokens": 6}
        events = await collect(backend, BackendRequest(body, bytes(32)))
        assert isinstance(events[-1], Finished)
        empty = await collect(backend, BackendRequest(body | {"prompt": ""}, bytes(32)))
        assert isinstance(empty[-1], Finished)

    with_backend(artifact, check)
