"""Pictures and files in a prompt: let in where the operator says so, as data alone."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from edge.harness import Rig, chat, mutations
from narrows.coding.spec import answer_spec
from narrows.deploy.config import load_config
from narrows.edge.api.request import parse_chat
from narrows.edge.config import EdgeLimits
from narrows.edge.dialects.anthropic_request import anthropic_request
from narrows.edge.dialects.responses_request import responses_request
from narrows.edge.problems import ApiError
from narrows.enclave.parameters import UpstreamParameters
from narrows.errors import InputError
from narrows.models.bytemodel import ByteModel
from narrows.wire.messages import Request

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
FILE = {
    "type": "file",
    "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"},
}
TEXT = {"type": "text", "text": "What is this?"}


def messages(*parts: Any, role: str = "user") -> list[dict[str, Any]]:
    named = {"tool_call_id": "1"} if role == "tool" else {}
    return [{"role": role, "content": list(parts)} | named]


def parse(*parts: Any, role: str = "user", media: int = 4, **limits: int) -> list[dict[str, Any]]:
    asked = chat(messages=messages(*parts, role=role))
    limit = EdgeLimits(media=media, **limits)
    found: list[dict[str, Any]] = parse_chat(asked, "test-model", limit).body["messages"]
    return found


def image(url: object, **more: object) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url} | more}


def test_what_is_data_is_let_in_as_it_is() -> None:
    for role in ("user", "tool"):
        parts = (TEXT, PICTURE, SOUND, FILE)
        assert parse(*parts, role=role) == messages(*parts, role=role)
    large = image("data:image/png;base64," + "A" * 4000)
    assert parse(TEXT, large, prompt_bytes=100), "a picture is no text"


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (image("https://example.com/a.png"), "nothing inside fetches"),
        (image("http://169.254.169.254/latest"), "nothing inside fetches"),
        (image("file:///etc/passwd"), "nothing inside fetches"),
        (image(" data:image/png;base64,AAAA"), "data URL as in"),
        (image("data:image/svg+xml;base64,AAAA"), "must be of"),
        (image("data:text/html;base64,AAAA"), "must be of"),
        (image("data:image/png;base64,AA\nA"), "base64"),
        (image("data:image/png;base64,AAA"), "base64"),
        (image("data:image/png;base64,"), "base64"),
        (image("data:image/png,AAAA"), "data URL as in"),
        (image(5), "data URL"),
        (image("data:image/png;base64,AAAA", detail="huge"), "detail"),
        (image("data:image/png;base64,AAAA", width=5), "width"),
        (PICTURE | {"text": "x"}, "nothing else"),
        ({"type": "image_url", "image_url": "data:image/png;base64,AAAA"}, "nothing else"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "ogg"}}, "format"),
        ({"type": "input_audio", "input_audio": {"data": "http://x", "format": "wav"}}, "base64"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "no files are kept"),
        ({"type": "file", "file": {"file_data": "https://x/a.pdf"}}, "nothing inside fetches"),
    ],
)
def test_what_is_no_data_is_refused_with_the_reason(part: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse(TEXT, part)
    assert refused.value.status == 400
    assert words in refused.value.message
    assert refused.value.param == "messages[0].content[1]"
    inside = {"messages": messages(TEXT, part)}
    with pytest.raises(InputError):
        UpstreamParameters("vllm", images=True).applied(inside)


def test_the_operator_decides_at_both_ends(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        reply = rig.post(chat(messages=messages(TEXT, PICTURE)))
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "egress_policy")
    with pytest.raises(ApiError, match="4 are accepted"):
        parse(*[PICTURE] * 5)
    with pytest.raises(ApiError):
        parse(PICTURE, role="system")
    body = {"messages": messages(TEXT, PICTURE, SOUND, FILE)}
    with pytest.raises(InputError, match="no text"):
        UpstreamParameters("vllm").applied(body)
    assert UpstreamParameters("vllm", images=True).applied(body) == body
    with pytest.raises(InputError):
        UpstreamParameters("vllm", images=True).applied({"messages": messages(*[PICTURE] * 65)})
    path = tmp_path / "narrows.toml"
    head = '[enclave.upstream]\nurl = "http://x/v1"\nmodel = "m"\n'
    for text, media in (
        (head, 0),
        (head + "images = true\n", 16),
        (head + "images = true\n[edge.limits]\nmedia = 2\n", 2),
    ):
        path.write_text(text)
        assert load_config(path).edge.limits.media == media


URL = "data:image/png;base64,AAAA"
PDF = "data:application/pdf;base64,AAAA"
LIMITS = EdgeLimits(media=4)


def of_responses(*parts: Any, limits: EdgeLimits = LIMITS) -> list[dict[str, Any]]:
    """As chat messages, checked as they are."""
    item = {"role": "user", "content": [{"type": "input_text", "text": "x"}, *parts]}
    chat_body = responses_request({"model": "test-model", "input": [item]}, limits).chat
    found: list[dict[str, Any]] = parse_chat(chat_body, "test-model", limits).body["messages"]
    return found


def of_messages(*blocks: Any, limits: EdgeLimits = LIMITS) -> list[dict[str, Any]]:
    asked = {"model": "test-model", "max_tokens": 5}
    asked["messages"] = [{"role": "user", "content": [{"type": "text", "text": "x"}, *blocks]}]
    chat_body = anthropic_request(asked, limits).chat
    found: list[dict[str, Any]] = parse_chat(chat_body, "test-model", limits).body["messages"]
    return found


def source(kind: str = "base64", **fields: str) -> dict[str, str]:
    return {"type": kind} | fields


PNG = source(media_type="image/png", data="AAAA")
PAPER = source(media_type="application/pdf", data="AAAA")


def test_the_other_dialects_show_the_same_parts() -> None:
    x = {"type": "text", "text": "x"}
    image, file = {"type": "input_image"}, {"type": "input_file"}
    assert of_responses(
        image | {"image_url": URL, "detail": "low"},
        file | {"file_data": PDF, "filename": "a.pdf"},
        SOUND,
    ) == messages(x, PICTURE, FILE, SOUND)
    blocks = [
        {"type": "image", "source": PNG, "cache_control": {"type": "ephemeral"}},
        {"type": "document", "source": PAPER, "title": "a.pdf", "citations": {"enabled": False}},
    ]
    low = {"type": "image_url", "image_url": {"url": URL}}
    assert of_messages(*blocks) == messages(x, low, FILE)
    # a document that is text is text, picture limits or not
    words = source("text", media_type="text/plain", data="words")
    parts = source("content", content=[{"type": "text", "text": "y"}])  # type: ignore[arg-type]
    texts = [{"type": "document", "source": words, "title": "T"},
             {"type": "document", "source": parts}]  # fmt: skip
    assert of_messages(*texts, limits=EdgeLimits()) == [{"role": "user", "content": "xT\nwordsy"}]


def test_what_a_tool_saw_is_shown_too() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": URL}]
    items = [call, {"type": "function_call_output", "call_id": "c", "output": output}]
    made = responses_request({"model": "m", "input": items}, LIMITS).chat["messages"][-1]
    low = {"type": "image_url", "image_url": {"url": URL}}
    assert made["content"][1]["image_url"]["url"] == URL
    use = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "c", "is_error": True,
              "content": [{"type": "image", "source": PNG}]}  # fmt: skip
    asked = {"model": "m", "max_tokens": 5, "messages": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]}  # fmt: skip
    (*_, tool) = anthropic_request(asked, LIMITS).chat["messages"]
    assert tool["content"] == [{"type": "text", "text": "Error: "}, low]


@pytest.mark.parametrize(
    ("dialect", "part", "words"),
    [
        (of_responses, {"type": "input_image", "image_url": "https://x/a.png"}, "nothing inside"),
        (of_responses, {"type": "input_image", "file_id": "f"}, "no files are kept"),
        (of_responses, {"type": "input_image"}, "data URL"),
        (of_responses, {"type": "input_image", "image_url": URL, "detail": 5}, "detail"),
        (of_responses, {"type": "input_image", "image_url": {"url": URL}}, "data URL"),
        (of_responses, {"type": "input_image", "image_url": URL, "width": 1}, "width"),
        (of_responses, {"type": "input_file", "file_url": "https://x"}, "nothing inside fetches"),
        (of_responses, {"type": "input_file", "file_id": "f"}, "no files are kept"),
        (of_responses, {"type": "input_file", "file_data": "AAAA"}, "data URL"),
        (of_responses, {"type": "input_file", "file_data": PDF, "filename": 5}, "filename"),
        (of_responses, {"type": "input_audio", "input_audio": 5}, "nothing else"),
        (of_messages, {"type": "image"}, "source"),
        (of_messages, {"type": "image", "source": source("url", url="x")}, "nothing inside"),
        (of_messages, {"type": "image", "source": source("file", file_id="f")}, "no files"),
        (of_messages, {"type": "image", "source": source("magic")}, "base64"),
        (of_messages, {"type": "image", "source": PNG | {"data": "A"}}, "base64"),
        (of_messages, {"type": "image", "source": PNG | {"media_type": "image/svg+xml"}}, "be of"),
        (of_messages, {"type": "image", "source": PNG | {"media_type": "a;b,c"}}, "data URL"),
        (of_messages, {"type": "image", "source": PNG | {"url": "x"}}, "url"),
        (of_messages, {"type": "document", "source": PNG}, "must be of"),
        (of_messages, {"type": "document", "source": source("url", url="x")}, "nothing inside"),
        (of_messages, {"type": "document", "source": PAPER, "citations": {"enabled": True}}, ""),
        (of_messages, {"type": "document", "source": PAPER, "title": "x" * 300}, "filename"),
    ],
)  # fmt: skip
def test_what_is_no_data_is_refused_in_every_dialect(dialect: Any, part: Any, words: str) -> None:
    with pytest.raises(ApiError) as refused:
        dialect(part)
    assert refused.value.status == 400
    assert words in refused.value.message
    assert ".content[1]" in str(refused.value.param) or words in ("source",)


def test_hostile_parts_are_refused_and_nothing_else_happens() -> None:
    def shown(kind: str, **fields: object) -> dict[str, object]:
        return {"type": kind} | fields

    items = [
        shown("input_image", image_url=URL, detail="low"),
        shown("input_file", file_data=PDF, filename="a.pdf"),
        SOUND,
    ]
    blocks = [
        shown("image", source=PNG),
        shown("document", source=PAPER, title="t", context="c"),
        shown("document", source=source("text", data="words")),
    ]
    for dialect, good in ((of_responses, items), (of_messages, blocks)):
        for parts in mutations(good, [URL, PNG, {"type": "image"}], 1500):
            if isinstance(parts, list):
                with contextlib.suppress(ApiError):
                    dialect(*parts)


def test_where_none_are_let_in_all_dialects_say_the_price() -> None:
    for dialect, part in (
        (of_responses, {"type": "input_image", "image_url": URL}),
        (of_responses, SOUND),
        (of_messages, {"type": "image", "source": PNG}),
        (of_messages, {"type": "document", "source": PAPER}),
    ):
        with pytest.raises(ApiError) as refused:
            dialect(part, limits=EdgeLimits())
        assert refused.value.code == "egress_policy"
        with pytest.raises(ApiError, match="4 are accepted"):
            dialect(*[part] * 5)


def test_the_weak_model_reads_the_text_alone() -> None:
    specs = [
        answer_spec(Request("00" * 16, {"messages": said}, "22" * 32), ByteModel())
        for said in (messages(TEXT), messages(PICTURE, TEXT, FILE))
    ]
    assert specs[0].prompt == specs[1].prompt
