"""Pictures and files in a prompt: let in where the operator says so, as data alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge.harness import Rig, chat
from narrows.coding.spec import answer_spec
from narrows.deploy.config import load_config
from narrows.edge.api.request import parse_chat
from narrows.edge.config import EdgeLimits
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


def test_the_weak_model_reads_the_text_alone() -> None:
    specs = [
        answer_spec(Request("00" * 16, {"messages": said}, "22" * 32), ByteModel())
        for said in (messages(TEXT), messages(PICTURE, TEXT, FILE))
    ]
    assert specs[0].prompt == specs[1].prompt
