"""Limits: slow clients, concurrent answers, sizes in flight, and the request parser's fuzz."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.harness import MODEL, Hang, Rig, Until, chat, foreign, native, wait_until
from narrows.coding.events import Coding, Opened
from narrows.edge.api import jsonio
from narrows.edge.api.request import parse_chat
from narrows.edge.config import EdgeConfig, EdgeLimits
from narrows.edge.problems import ApiError
from narrows.edge.text import TextDecoder
from narrows.errors import InputError, LinkError
from narrows.wire.messages import FrameReader, Request, encode_frame

LIMITS = EdgeLimits(
    buffer_bytes=200_000,
    client_stall_s=1.0,
    answer_bytes=3_000_000,
    answers=8,
    body_s=4.0,  # a busy machine may keep a thread that has a body to send waiting for a second
    body_bytes=100_000,
    bodies_bytes=150_000,
    prompt_bytes=90_000,
)


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("state"), limits=LIMITS) as rig:
        yield rig


def deaf_client(rig):
    """Asks for a stream and reads nothing of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", rig.port))
    body = json.dumps(chat(stream=True)).encode()
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )
    return connection


def test_a_deaf_clients_answer_is_stopped_and_others_go_on(rig):
    # NUL is six bytes in JSON: more than any socket takes.
    rig.enclave.script = lambda request: [*foreign("\x00" * 2_000_000, 4000)[:-1], Hang()]
    before = len(rig.enclave.cancels)
    connection = deaf_client(rig)
    wait_until(lambda: len(rig.enclave.cancels) >= before + 1)
    rig.enclave.script = lambda request: native("others")
    assert rig.ask().choices[0].message.content == "others"
    connection.close()


def test_a_client_that_takes_nothing_for_long_is_dropped(rig):
    """Less than the buffer, so only its silence ends it."""
    text = foreign("\x00" * 700_000, 4000)
    slow = [step for piece in text[:-1] for step in (piece, 0.003)]
    rig.enclave.script = lambda request: [*slow, Hang()]
    before = len(rig.enclave.cancels)
    connection = deaf_client(rig)
    wait_until(lambda: len(rig.enclave.cancels) >= before + 1)
    connection.close()


def test_too_large_an_answer(rig):
    rig.enclave.script = lambda request: foreign("x" * 3_100_000, 100_000)
    answer = rig.post(chat())
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "answer_too_large"


def test_too_many_answers_at_once(rig):
    refusals = threading.Event()
    held = Until(refusals.is_set)
    rig.enclave.script = lambda request: [Opened(Coding.PLAIN), held, *native("x")[1:]]
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(rig.post, chat()) for _ in range(12)]
        try:
            wait_until(lambda: sum(one.done() for one in asked) == 4)
        finally:
            refusals.set()
        answers = [one.result() for one in asked]
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200] * 8 + [429] * 4
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["x-should-retry"] == "true"
    assert refused.headers["retry-after"] == "1"
    assert rig.post(chat()).status_code == 200


def test_bodies_in_flight_are_limited_together(rig):
    rig.enclave.script = lambda request: native("x")
    text = [{"role": "user", "content": "x" * 80_000}]
    assert rig.post(chat(messages=text)).status_code == 200
    assert rig.post(chat(messages=text, n=2)).status_code == 429


def test_a_body_that_never_comes(rig):
    with socket.create_connection(("127.0.0.1", rig.port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{"
        )
        assert b" 408 " in connection.recv(65536)


def test_the_longest_body_fits_in_a_frame():
    """Two UTF-8 bytes become six in a frame: the worst case of the largest body accepted."""
    limits = EdgeLimits(body_bytes=5_500_000, prompt_bytes=5_500_000)
    EdgeConfig(limits=limits).check()
    body = json.dumps(chat(messages=[{"role": "user", "content": "é" * 2_700_000}]))
    data = body.encode().replace(rb"\u00e9", "é".encode())
    parsed = parse_chat(jsonio.parse_object(data), MODEL, limits)
    frame = encode_frame(Request("0" * 32, parsed.body, "0" * 64))
    assert FrameReader().feed(frame)[0].body == parsed.body


@pytest.mark.parametrize("size", [-1, 1, 2_000_000])
def test_constant_sizes_that_no_gate_sends(size):
    with pytest.raises(InputError):
        EdgeConfig(constant_bytes=size).check()


def test_configuration_mistakes_come_together():
    with pytest.raises(InputError) as caught:
        EdgeConfig(gate_host="10.0.0.1", tick_ms=0, weak=(), limits=EdgeLimits(n=0)).check()
    assert len(caught.value.problems) == 4


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
FIELDS = [
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "stop",
    "n",
    "seed",
    "stream",
    "stream_options",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "logprobs",
    "top_logprobs",
    "modalities",
    "audio",
    "logit_bias",
    "user",
    "functions",
]
likely = st.sampled_from(
    [
        [{"role": "user", "content": "x"}],
        [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}],
        [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}],
        [{"type": "function", "function": {"name": "f", "parameters": {"a": [1.5, None]}}}],
        {"type": "function", "function": {"name": "f"}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
        {"include_usage": True},
        ["text"],
        "auto",
        1,
        0.5,
        MODEL,
    ]
)


def check_refusal(error):
    assert error.status in (400, 403, 404, 413)
    jsonio.dump(error.body())
    for name, value in error.headers().items():
        (name + value).encode("ascii")


def check_parsed(data):
    """Whatever a client sends is refused, or becomes a request that the link can carry."""
    try:
        parsed = parse_chat(jsonio.parse_object(data), MODEL, EdgeLimits())
    except ApiError as error:
        check_refusal(error)
        return
    frame = encode_frame(Request("0" * 32, parsed.body, "0" * 64))
    assert FrameReader().feed(frame)[0].body == parsed.body
    assert 1 <= parsed.n <= 8
    assert set(parsed.body) <= {
        "messages",
        "markup",
        "reasoning",
        "max_tokens",
        "temperature",
        "top_p",
        "stop",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
    }


@given(st.binary(max_size=300))
def test_any_bytes(data):
    check_parsed(data)


@given(st.dictionaries(st.sampled_from(FIELDS), likely | json_values))
def test_any_fields(fields):
    base = chat() | fields
    check_parsed(json.dumps(base).encode("utf-8", "surrogatepass"))


@given(
    st.dictionaries(
        st.sampled_from(["role", "content", "name", "tool_calls", "tool_call_id", "refusal", "x"]),
        st.sampled_from(["user", "assistant", "tool"]) | json_values,
    )
)
def test_any_message(message):
    check_parsed(json.dumps(chat(messages=[{"role": "user"} | message])).encode())


@given(st.lists(st.binary(max_size=6), max_size=6))
def test_native_bytes_decode_as_a_whole_would(pieces):
    decoder = TextDecoder(native=True)
    text = "".join(map(decoder.feed, pieces)) + decoder.finish()
    assert text == b"".join(pieces).decode("utf-8", "replace")


@given(st.lists(st.binary(max_size=6), max_size=6))
def test_foreign_bytes_decode_or_fail(pieces):
    decoder = TextDecoder(native=False)
    try:
        whole = b"".join(pieces).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        with pytest.raises(LinkError):
            _ = "".join(map(decoder.feed, pieces)) + decoder.finish()
        return
    text = "".join(map(decoder.feed, pieces)) + decoder.finish()
    assert text == whole.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
