"""JSON of a schema is JSON of that schema, whatever the model would rather say."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from enclave.schemas import SCHEMAS, holds
from enclave.test_builtin import artifact, collect, ids, request, with_backend
from narrows.coding.events import Failed, Failure, Finish, Finished
from narrows.enclave.builtin import BuiltinBackend
from narrows.models.registry import load_model

__all__ = ["artifact"]


async def valid(backend: BuiltinBackend, schema: dict[str, Any], key: int, **body: Any) -> bool:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    wanted = request("Give me an example.", key, max_tokens=512, response_format=form, **body)
    events = await collect(backend, wanted)
    assert backend.tokenizer is not None
    text = b"".join(map(backend.tokenizer.token_bytes, ids(events))).decode()
    assert events[-1] == Finished(Finish.STOP), text
    assert holds(json.loads(text), schema), text
    return True


def test_twenty_schemas_by_a_model_that_knows_nothing(artifact: Path) -> None:
    async def check(backend: BuiltinBackend) -> None:
        assert len(SCHEMAS) == 20
        await asyncio.gather(*(valid(backend, one, n) for n, one in enumerate(SCHEMAS)))

    with_backend(artifact, check)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_two_hundred_answers_of_the_built_in_model() -> None:
    async def check() -> int:
        model = load_model("smollm2-135m", threads=2, kv_bytes=1 << 30)
        backend = BuiltinBackend(model, max_batch=20)
        try:
            done = 0
            for key in range(10):
                warmth = {"temperature": (0.0, 0.7, 1.0, 1.5)[key % 4]}
                asked = (
                    valid(backend, one, 20 * key + n, **warmth) for n, one in enumerate(SCHEMAS)
                )
                done += sum(await asyncio.gather(*asked))
                print(key, done)
            return done
        finally:
            await backend.close()

    assert asyncio.run(check()) == 200


def test_what_is_hard_to_work_out_ends_soon_and_alone(artifact: Path) -> None:
    hard = [
        {"guided_regex": "(a|b|ab|ba){1,400}c" * 3},
        {"guided_regex": "((a{1,200}){1,200}){1,200}"},
        {"guided_json": {"type": "object", "patternProperties": {f"^{'a?' * 40}$": {}}}},
        {"guided_json": {"enum": [f"{n:06d}" for n in range(9000)]}},
        {"guided_json": {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}},
        {"guided_json": {"type": "object", "properties": {f"p{n}": {} for n in range(3000)}}},
        {"guided_json": {"type": "object", "properties": {f"p{n}": {} for n in range(9000)}}},
        {"guided_choice": ["\ud800"]},
        {"guided_regex": "\ud800"},
        {"guided_json": {"const": "\ud800"}},
    ]  # fmt: skip

    async def check(backend: BuiltinBackend) -> None:
        start_s = time.monotonic()
        all_ = await asyncio.gather(
            collect(backend, request()), *(collect(backend, request(**one)) for one in hard)
        )
        assert isinstance(all_[0][-1], Finished)
        for body, events in zip(hard, all_[1:], strict=True):
            last = events[-1]
            assert isinstance(last, Finished) or last == Failed(Failure.BAD_REQUEST), body
        assert time.monotonic() - start_s < 60

    with_backend(artifact, check)
