"""Drives real client packages against ``narrows up`` with the built-in model, and writes the
table of docs/clients.md. ``make clients``, or ``python tests/clients/drive.py [--write]``.

A check is a call as the package's users write it. What is not installed is not in the table.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from ports import free_port

MODEL = "smollm2-135m-instruct"
PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
START_S = 600.0
ASKED = [{"role": "user", "content": "Name a colour."}]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green", "blue"]}, "warm": {"type": "boolean"}},
    "required": ["colour", "warm"],
    "additionalProperties": False,
}


class Check(NamedTuple):
    package: str
    what: str
    call: Callable[[str], Any]


def _openai(url: str) -> Any:
    import openai

    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)


def _anthropic(url: str) -> Any:
    import anthropic

    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=120)


def chat(url: str) -> None:
    reply = _openai(url).chat.completions.create(model=MODEL, messages=ASKED, max_tokens=8, n=2)
    assert [len(choice.message.content) > 0 for choice in reply.choices] == [True, True]
    assert reply.usage.completion_tokens > 0


def chat_streamed(url: str) -> None:
    options = {"include_usage": True}
    chunks = list(
        _openai(url).chat.completions.create(
            model=MODEL, messages=ASKED, max_tokens=8, stream=True, stream_options=options
        )
    )
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert chunks[-1].usage.completion_tokens > 0


def chat_parsed(url: str) -> None:
    import pydantic

    class Answer(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        warm: bool
        size: int = pydantic.Field(ge=0, le=9)

    client = _openai(url)
    reply = client.chat.completions.parse(model=MODEL, messages=ASKED, response_format=Answer)
    assert isinstance(reply.choices[0].message.parsed, Answer)


def chat_parameters(url: str) -> None:
    _openai(url).chat.completions.create(
        model=MODEL,
        messages=ASKED,
        max_tokens=8,
        presence_penalty=0.5,
        logit_bias={"5": -100},
        extra_body={"top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1},
    )


def refusal(url: str) -> None:
    import openai

    code = "none"
    try:
        _openai(url).chat.completions.create(
            model=MODEL, messages=ASKED, max_tokens=8, logprobs=True
        )
    except openai.PermissionDeniedError as error:
        code = str(error.code)
    assert code == "egress_policy"


def completions(url: str) -> None:
    reply = _openai(url).completions.create(model=MODEL, prompt=["One,", "A, B,"], max_tokens=8)
    assert [choice.index for choice in reply.choices] == [0, 1]


def completions_streamed(url: str) -> None:
    made = _openai(url).completions.create(model=MODEL, prompt="One, two,", stream=True)
    assert "".join(chunk.choices[0].text for chunk in made)


def responses(url: str) -> None:
    client = _openai(url)
    reply = client.responses.create(model=MODEL, input="Name a colour.", max_output_tokens=16)
    more = client.responses.create(
        model=MODEL, input="Another.", previous_response_id=reply.id, max_output_tokens=16
    )
    assert reply.output_text
    assert more.output_text


def responses_streamed(url: str) -> None:
    with _openai(url).responses.stream(
        model=MODEL, input="Name a colour.", max_output_tokens=16
    ) as stream:
        assert list(stream)[-1].type in ("response.completed", "response.incomplete")


def responses_format(url: str) -> None:
    import json

    form = {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}
    reply = _openai(url).responses.create(
        model=MODEL, input="A colour, as JSON.", text={"format": form}
    )
    assert json.loads(reply.output_text).keys() == {"colour", "warm"}


def models(url: str) -> None:
    assert [one.id for one in _openai(url).models.list()] == [MODEL]


def messages(url: str) -> None:
    reply = _anthropic(url).messages.create(
        model=MODEL, messages=ASKED, max_tokens=8, extra_body={"top_k": 20}
    )
    assert reply.content[0].text


def messages_streamed(url: str) -> None:
    with _anthropic(url).messages.stream(model=MODEL, messages=ASKED, max_tokens=8) as stream:
        assert "".join(stream.text_stream)


def count_tokens(url: str) -> None:
    assert _anthropic(url).messages.count_tokens(model=MODEL, messages=ASKED).input_tokens > 3


CHECKS = (
    Check("openai", "chat, two answers", chat),
    Check("openai", "chat, streamed with usage", chat_streamed),
    Check("openai", "chat, parsed into a class", chat_parsed),
    Check("openai", "chat, penalties, bias, `top_k`, `min_p`", chat_parameters),
    Check("openai", "log probabilities refused as such", refusal),
    Check("openai", "completions, two prompts", completions),
    Check("openai", "completions, streamed", completions_streamed),
    Check("openai", "responses, gone on from", responses),
    Check("openai", "responses, streamed", responses_streamed),
    Check("openai", "responses, JSON of a schema", responses_format),
    Check("openai", "models", models),
    Check("anthropic", "messages, with `top_k`", messages),
    Check("anthropic", "messages, streamed", messages_streamed),
    Check("anthropic", "count_tokens", count_tokens),
)


@contextmanager
def served() -> Iterator[str]:
    """The address of an ``up`` of its own, with the built-in model."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        words = f"up --state {folder}/state --budget 10MB --port {port}".split()
        with Path(folder, "said").open("wb") as said:
            up = subprocess.Popen(
                [sys.executable, "-m", "narrows.cli.main", *words], stdout=said, stderr=said
            )
        url = f"http://127.0.0.1:{port}"
        try:
            _await(url, up, Path(folder, "said"))
            yield url
        finally:
            up.send_signal(signal.SIGINT)
            up.wait(60)


def _await(url: str, up: subprocess.Popen[bytes], said: Path) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and up.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=10):
                return
        except OSError:
            time.sleep(0.5)
    sys.exit(f"narrows up did not start:\n{said.read_text(errors='replace')}")


def run(url: str) -> list[tuple[Check, str, str]]:
    """Each check of an installed package with its version and what came of it."""
    found = []
    for check in CHECKS:
        try:
            version = importlib.metadata.version(check.package)
        except importlib.metadata.PackageNotFoundError:
            print(f"{check.package} is not installed: {check.what} not run")
            continue
        try:
            check.call(url)
        except Exception as error:  # noqa: BLE001  # whatever a package raises is the finding
            result = f"fails: {type(error).__name__}"
            print(f"{check.package} {version}: {check.what}: {error}")
        else:
            result = "works"
            print(f"{check.package} {version}: {check.what}: works")
        found.append((check, version, result))
    return found


def table(found: list[tuple[Check, str, str]]) -> str:
    rows = [f"| {one.package} {version} | {one.what} | {said} |" for one, version, said in found]
    return "\n".join(["| package | call | |", "|---|---|---|", *rows]) + "\n"


def main() -> int:
    with served() as url:
        found = run(url)
    if "--write" in sys.argv[1:]:
        text = PAGE.read_text()
        made = re.sub(r"\| package \| call \|.*\n(\|.*\n)+", lambda _: table(found), text)
        temporary = PAGE.with_suffix(".part")
        temporary.write_text(made)
        os.replace(temporary, PAGE)
    return int(any(said != "works" for _, _, said in found))


if __name__ == "__main__":
    sys.exit(main())
