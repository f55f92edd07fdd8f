"""The context of the weak model: whatever its template thinks, both ends have one and the same."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from coding.link_fakes import TinyModel, TinyTokenizer
from models.tiny import tiny_tokenizer_data
from narrows.coding.events import AnswerSpec
from narrows.coding.spec import MAX_ANSWER_TOKENS, answer_spec, render_prompt
from narrows.errors import ArtifactError, InputError, LinkError
from narrows.models.text.chat import ChatRenderer
from narrows.models.text.tokenizer import BpeTokenizer
from narrows.wire.messages import Request

DATA = tiny_tokenizer_data()
TINY = BpeTokenizer(DATA.json_text, vocab_size=400, eos_ids=DATA.eos_ids)
SYSTEM = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
TWO_USERS = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
TOOLS = [{"role": "assistant", "content": None}, {"role": "tool", "content": "5"}]

NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] }}{% endfor %}"
)


class Chatting(TinyModel):
    def __init__(self, template: str) -> None:
        super().__init__()
        self.tokenizer = TINY  # type: ignore[assignment]
        self.vocab_size = 400
        self._chat = ChatRenderer(template, TINY)

    def render_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return self._chat.render(messages)


def text(model: TinyModel, messages: list[dict[str, Any]]) -> str:
    return b"".join(map(model.tokenizer.token_bytes, render_prompt(model, messages))).decode()


@pytest.mark.parametrize(
    ("template", "messages"),
    [
        (NO_SYSTEM, SYSTEM),
        (ALTERNATING, TWO_USERS),
        (ALTERNATING, TOOLS),
        ("{{ messages[9]['content'] }}", SYSTEM),
        ("{{ messages[0]['content'].no_such() }}", SYSTEM),
        ("{{ no_such('%Y') }}", SYSTEM),
        ("{{ 1 / 0 }}", SYSTEM),
        ("{{ '' }}", SYSTEM),
    ],
)
def test_a_template_never_vetoes(template: str, messages: list[dict[str, Any]]) -> None:
    lines = "".join(f"{m['role']}: {m['content'] or ''}\n" for m in messages)
    assert text(Chatting(template), messages) == lines + "assistant: "
    one = Request("00" * 16, {"messages": messages}, "22" * 32)
    assert answer_spec(one, Chatting(template)) == answer_spec(one, Chatting(template))


def test_a_template_that_fits_is_used() -> None:
    assert text(Chatting(NO_SYSTEM), TWO_USERS) == "ab"


def test_a_template_that_calls_itself_is_an_error_and_no_outcome() -> None:
    """Where a stack ends is not the same at both ends: neither may go on."""
    model = Chatting("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")
    with pytest.raises(ArtifactError):
        render_prompt(model, SYSTEM)
    with pytest.raises(LinkError):
        answer_spec(Request("00" * 16, {"messages": SYSTEM}, "22" * 32), model)


def test_bytes_that_the_vocabulary_lacks_are_left_out() -> None:
    lacking = chr(TinyTokenizer.unknown)
    model = TinyModel()
    with pytest.raises(InputError):
        model.tokenizer.encode(lacking.encode())
    assert text(model, [{"role": "user", "content": f"{lacking}a{lacking}b"}]) == (
        "user: ab\nassistant: "
    )


def test_a_request_without_max_tokens_is_limited_by_the_server() -> None:
    one = Request("00" * 16, {"messages": SYSTEM}, "22" * 32)
    assert answer_spec(one, TinyModel()).max_tokens == MAX_ANSWER_TOKENS


def test_a_raw_prompt_is_its_text_cut_to_its_end() -> None:
    def spec(**body: Any) -> AnswerSpec:
        return answer_spec(Request("00" * 16, body, "22" * 32), TinyModel())

    model = TinyModel()
    assert spec(prompt="hi").prompt == tuple(model.tokenizer.encode(b"hi"))
    assert spec(prompt="").prompt == ()
    assert spec(prompt="ab" * 5000).prompt == tuple(
        model.tokenizer.encode(b"ab" * 5000)[-(model.max_context // 2) :]
    )
    assert spec(prompt=f"a{chr(TinyTokenizer.unknown)}b").prompt == spec(prompt="ab").prompt
    for body in ({}, {"prompt": 5}, {"prompt": [1]}, {"prompt": "a", "messages": SYSTEM}):
        with pytest.raises(LinkError):
            spec(**body)


def test_tokens_that_the_model_lacks_are_no_context() -> None:
    one = Request("00" * 16, {"messages": SYSTEM}, "22" * 32, resume=[TinyModel().vocab_size])
    with pytest.raises(LinkError):
        answer_spec(one, TinyModel())


PAGE = (Path(__file__).parents[2] / "docs" / "context.md").read_text()


def test_the_pages_rounding() -> None:
    rows = re.findall(r"^\| ([\d.]+) \| (\d+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 7
    for number, q16 in rows:
        body = json.loads(f'{{"messages": [], "temperature": {number}}}')
        spec = answer_spec(Request("00" * 16, body, "22" * 32), TinyModel())
        assert spec.temperature == int(q16)
    null = {"messages": [], "temperature": None, "top_p": None}
    spec = answer_spec(Request("00" * 16, null, "22" * 32), TinyModel())
    assert (spec.temperature, spec.top_p) == (65536, 65536)
    with pytest.raises(LinkError):
        answer_spec(
            Request("00" * 16, {"messages": [], "max_tokens": None}, "22" * 32), TinyModel()
        )


def test_the_pages_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"^```\nmessages (.*)\nlines    (.*)\nprompt   (.*)\n```$", PAGE, re.M)
    assert found
    messages, lines, prompt = map(json.loads, found.groups())
    monkeypatch.setattr(TinyTokenizer, "words", ())
    assert text(TinyModel(), messages) == lines
    monkeypatch.setattr(TinyModel, "max_context", 34)
    assert text(TinyModel(), messages) == prompt
