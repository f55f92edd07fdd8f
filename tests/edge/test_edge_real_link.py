"""The edge on the real codec: text is what the model said, to the last surrogate."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.harness import MODEL, Drop, Hang, Rig, Until, chat, foreign, native, wait_until
from edge.real_enclave import RealEnclave
from narrows.coding.events import Channel, Coding, Finish, Finished, Opened, Switch, Text, Usage
from narrows.edge.books.stats import read_stats


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    rig = Rig(tmp_path_factory.mktemp("state"), real=True)
    rig.enclave = RealEnclave()
    with rig:
        yield rig


@pytest.fixture
def own_rig(tmp_path):
    rig = Rig(tmp_path, real=True, resume_s=60.0)
    rig.enclave = RealEnclave()
    with rig:
        yield rig


def streamed(rig, **fields):
    with rig.client() as client:
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True, **fields
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def joined(text):
    """A high and a low surrogate side by side are one character to every JSON reader."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


texts = st.text(st.characters(codec="utf-8") | st.characters(categories=["Cs"]), max_size=200)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=texts, size=st.integers(1, 9), stream=st.booleans())
def test_any_foreign_text(rig, text, size, stream):
    rig.enclave.script = lambda request: foreign(text, size)
    got = streamed(rig) if stream else rig.ask().choices[0].message.content
    assert got == joined(text)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(max_size=200), size=st.integers(1, 9), stream=st.booleans())
def test_any_native_text(rig, text, size, stream):
    rig.enclave.script = lambda request: native(text, size=size)
    got = streamed(rig) if stream else rig.ask().choices[0].message.content
    assert got == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00",
        "a\x00b\x1f\x7f\u2028\u2029",
        "👩‍👩‍👧‍👦 e\u0301 ａ \u200f",
        "\ud800",
        "x\udfff\ud83d",
        '"\\ud83d"\n\ndata: [DONE]\n\n',
        "<|im_end|><|endoftext|>",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_awkward_texts(rig, text, stream):
    rig.enclave.script = lambda request: foreign(text, 1)
    got = streamed(rig) if stream else rig.ask().choices[0].message.content
    assert got == text


@pytest.mark.parametrize("stream", [False, True])
def test_a_long_text(rig, stream):
    rng = random.Random(4)
    text = "".join(rng.choice("ab é漢🙂\x00") for _ in range(12_000))
    assert len(text.encode()) > 20_000
    rig.enclave.script = lambda request: foreign(text, 4096)
    got = streamed(rig) if stream else rig.ask().choices[0].message.content
    assert got == text


def test_bad_utf8_of_a_native_model_is_replaced(rig):
    rig.enclave.script = lambda request: [
        Opened(Coding.PLAIN),
        *native("é")[1:-1],
        Finished(Finish.LENGTH),
    ]
    assert rig.ask().choices[0].message.content == "é"


def test_channels_and_usage(rig):
    rig.enclave.script = lambda request: [
        Opened(Coding.TEXT),
        Switch(Channel.REASONING),
        Text(b"hm"),
        Switch(Channel.CONTENT),
        Text(b"yes"),
        Usage(3, 4),
        Finished(Finish.STOP),
    ]
    answer = rig.ask()
    assert answer.choices[0].message.reasoning_content == "hm"
    assert answer.choices[0].message.content == "yes"
    assert answer.usage.total_tokens == 7


def test_a_client_that_leaves_cancels_at_once(rig):
    rig.enclave.script = lambda request: [*native("a" * 50)[:-1], 0.3, Hang()]
    before = len(rig.enclave.cancels)
    with rig.client() as client:
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        next(stream)
        stream.close()
    wait_until(lambda: len(rig.enclave.cancels) >= before + 1)


@pytest.mark.parametrize("seed", range(4))
def test_hostile_bytes_close_the_link_and_no_answer_completes(own_rig, seed):
    """Random bytes in place of the coded stream: an error in bounded time, every time."""
    rig = own_rig
    noise = random.Random(seed).randbytes(3000)
    rig.enclave.script = lambda request: [noise, 0.2, Drop()]
    answer = rig.post(chat(max_tokens=50))
    assert answer.status_code in (502, 503), answer.text
    rig.enclave.script = lambda request: native("well")

    def served():
        answer = rig.post(chat())
        return answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"]

    wait_until(lambda: served() == "well")


def test_counts_at_the_socket(tmp_path):
    """link_bytes is what the enclave sent, to the byte; answers are what was delivered."""
    rig = Rig(tmp_path, real=True)
    rig.enclave = RealEnclave()
    rig.enclave.script = lambda request: native("ü" * 100)
    with rig:
        for _ in range(3):
            rig.ask()
        wait_until(lambda: read_stats(tmp_path).total.link_bytes == rig.enclave.sent_bytes)
        rig.post(chat(stream=True))
    total = read_stats(tmp_path).total  # the last counts were written at exit
    assert (total.answers, total.answer_bytes, total.tokens) == (4, 800, 800)
    assert total.link_bytes == rig.enclave.sent_bytes
    assert total == read_stats(tmp_path).today
    assert list(read_stats(tmp_path).by_day.values()) == [{"flat": total}]


class Breaking:
    """A script whose first answer breaks the link after ``cut`` tokens; ``other`` ends at once
    before that, so that a check covers the tokens so far."""

    def __init__(self, text, cut, later=None):
        self.tokens = native(text, size=1)
        self.later = native(later or text, size=1)
        self.cut = cut
        self.resumes = []
        self.events = []  # of the stream, as its client gets them
        self.checked = False

    def __call__(self, request):
        if request.body["messages"][0]["content"] == "other":
            return native("-")
        self.resumes.append(request.resume)
        if len(self.resumes) == 1:
            half = self.cut // 2
            return [
                *self.tokens[:half],
                Until(lambda: self.checked),
                *self.tokens[half : self.cut],
                Until(lambda: self.arrived() >= self.cut - 1),  # Opened is among the cut ones
                Drop(),
            ]
        return [Opened(Coding.PLAIN), *self.later[1 + len(request.resume) :]]

    def arrived(self):
        return len(content(self.events))


def ask_breaking(rig, script):
    """The events of a streamed answer whose link breaks."""
    rig.enclave.script = script

    def read():
        url = f"{rig.url}/v1/chat/completions"
        with httpx2.stream("POST", url, json=chat(stream=True), timeout=60) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    script.events.append(json.loads(line[6:]))

    with ThreadPoolExecutor() as pool:
        reading = pool.submit(read)
        try:
            wait_until(lambda: script.arrived() >= script.cut // 2 - 1, 60)
            rig.ask("other")
        finally:
            script.checked = True
        reading.result()
    return script.events


def content(events):
    parts = (event["choices"] for event in list(events) if "choices" in event)
    return "".join(choices[0]["delta"].get("content", "") for choices in parts)


def test_an_interrupted_answer_goes_on_behind_its_verified_tokens(own_rig):
    text = "".join(chr(97 + index % 26) for index in range(60))
    script = Breaking(text, 40)
    events = ask_breaking(own_rig, script)
    assert content(events) == text
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    verified = script.resumes[1]
    assert 0 < len(verified) < 40
    assert bytes(verified).decode() == text[: len(verified)]


def test_a_resumed_answer_that_goes_another_way_fails(own_rig):
    text = "".join(chr(97 + index % 26) for index in range(60))
    events = ask_breaking(own_rig, Breaking(text, 40, text[:30] + "!" + text[31:]))
    assert events[-1]["error"]["code"] == "link_lost"
    assert text.startswith(content(events[:-1]))


def test_sse_is_well_formed(rig):
    rig.enclave.script = lambda request: foreign("a\r\nb\n\ndata: x\n\n", 1)
    events = rig.post(chat(stream=True)).text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    for event in events[:-2]:
        assert event.startswith("data: {")
        assert json.loads(event[6:])["object"] == "chat.completion.chunk"
