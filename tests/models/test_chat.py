"""A message cannot write a control token, whatever it says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.tiny import SPECIALS, TEMPLATE, tiny_tokenizer_data
from narrows.errors import ArtifactError, InputError
from narrows.models.text.chat import ChatRenderer
from narrows.models.text.tokenizer import BpeTokenizer

DATA = tiny_tokenizer_data()
TINY = BpeTokenizer(DATA.json_text, vocab_size=400, eos_ids=DATA.eos_ids)
CHAT = ChatRenderer(TEMPLATE, TINY)
HOSTILE = [*SPECIALS, "<", "<|", "|>", ">", "<|im_", "end|>", "\U0010fffd", " "]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=5))), min_size=1))
def test_only_the_template_writes_markers(contents: list[list[str]]) -> None:
    texts = ["".join(parts) for parts in contents]
    ids = CHAT.render([{"role": "user", "content": text} for text in texts])
    assert [i for i in ids if i in TINY.special_ids] == [1, 2] * len(texts) + [1]
    want = "".join(f"<|im_start|>user\n{t}<|im_end|>\n" for t in texts) + "<|im_start|>assistant\n"
    got = b"".join(map(TINY.token_bytes, ids))
    assert got == want.encode("utf-8", "surrogatepass")


def test_parts_none_and_no_template() -> None:
    plain = ChatRenderer("", TINY)
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": None}]
    ids = plain.render(messages)
    assert b"".join(map(TINY.token_bytes, ids)) == b"user: ab\nassistant: \nassistant: "


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "{{ 'a' * 100000000000 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ no_such_function('%Y') }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ 'aaaaaaaa' }}"
        "{% endfor %}{% endfor %}",
    ],
)
def test_templates_that_misbehave(template: str) -> None:
    with pytest.raises(InputError):
        ChatRenderer(template, TINY).render([{"role": "user", "content": "x"}])


def test_bad_templates_and_messages() -> None:
    with pytest.raises(ArtifactError):
        ChatRenderer("{% for %}", TINY)
    for messages in ([], [{"role": "x", "content": ""}], [{"role": "user", "content": 5}]):
        with pytest.raises(InputError):
            CHAT.render(messages)
