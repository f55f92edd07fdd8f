"""Drives real client packages against ``narrows up`` with the built-in model, and writes the
table of docs/clients.md. ``make clients``, or
``python tests/clients/drive.py [--write] [PACKAGE ...]``.

A check is a call as the package's users write it. What is not installed keeps its rows as they are.
Clients that are not to be in narrows' own environment are in one of theirs, which is told where
narrows is: ``NARROWS=.venv/bin/narrows /their/bin/python tests/clients/drive.py --write``.
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
ALIAS = "gpt-4o-mini"
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
    assert [one.id for one in _openai(url).models.list()] == [MODEL, ALIAS]


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


def _answer_class() -> Any:
    import pydantic

    class Answer(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        warm: bool
        size: int = pydantic.Field(ge=0, le=9)

    return Answer


def _langchain(url: str, **options: Any) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model=MODEL, base_url=f"{url}/v1", api_key="none", max_retries=0, **options)


def langchain(url: str) -> None:
    assert _langchain(url, max_tokens=8).invoke("Name a colour.").content
    assert list(_langchain(url, max_tokens=8).stream("Name a colour."))


def langchain_structured(url: str) -> None:
    kind = _answer_class()
    made = _langchain(url).with_structured_output(kind, method="json_schema").invoke("A colour.")
    assert isinstance(made, kind)


def langchain_responses(url: str) -> None:
    model = _langchain(url, max_tokens=16, use_responses_api=True)
    assert model.invoke("Name a colour.").content
    assert list(model.stream("Name a colour."))


def litellm_chat(url: str) -> None:
    import litellm

    asked = {"model": f"openai/{MODEL}", "api_base": f"{url}/v1", "api_key": "none"}
    options = asked | {"messages": ASKED, "max_tokens": 8}
    assert litellm.completion(**options).choices[0].message.content
    assert list(litellm.completion(stream=True, **options))


def litellm_messages(url: str) -> None:
    import litellm

    asked = {"model": f"anthropic/{MODEL}", "api_base": url, "api_key": "none"}
    options = asked | {"messages": ASKED, "max_tokens": 8}
    assert litellm.completion(**options).choices[0].message.content
    assert list(litellm.completion(stream=True, **options))


def litellm_responses(url: str) -> None:
    import litellm

    asked = {"model": f"openai/{MODEL}", "api_base": f"{url}/v1", "api_key": "none"}
    assert litellm.responses(input="Name a colour.", max_output_tokens=16, **asked).output


def instructor_schema(url: str) -> None:
    import instructor

    kind = _answer_class()
    client = instructor.from_openai(_openai(url), mode=instructor.Mode.JSON_SCHEMA)
    made = client.chat.completions.create(model=MODEL, messages=ASKED, response_model=kind)
    assert isinstance(made, kind)


def _pydantic_agent(url: str, responses: bool = False, **options: Any) -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
    kind = OpenAIResponsesModel if responses else OpenAIChatModel
    return Agent(kind(MODEL, provider=provider), **options)


def pydantic_ai_chat(url: str) -> None:
    agent = _pydantic_agent(url, instructions="Be brief.", model_settings={"max_tokens": 16})
    first = agent.run_sync("Name a colour.")
    assert agent.run_sync("Another.", message_history=first.all_messages()).output


def pydantic_ai_structured(url: str) -> None:
    from pydantic_ai import NativeOutput

    kind = _answer_class()
    agent = _pydantic_agent(url, output_type=NativeOutput(kind))
    assert isinstance(agent.run_sync("A colour.").output, kind)


def pydantic_ai_responses(url: str) -> None:
    agent = _pydantic_agent(url, responses=True, model_settings={"max_tokens": 16})
    assert agent.run_sync("Name a colour.").output


def _llama_index(url: str) -> Any:
    from llama_index.llms.openai import OpenAI

    # It takes no name whose context it does not know: an alias of the edge has one.
    return OpenAI(model=ALIAS, api_base=f"{url}/v1", api_key="none", max_tokens=8, max_retries=0)


def llama_index_chat(url: str) -> None:
    from llama_index.core.llms import ChatMessage

    assert _llama_index(url).chat([ChatMessage(role="user", content="A colour.")]).message.content


def llama_index_complete(url: str) -> None:
    assert _llama_index(url).complete("One, two,").text
    assert list(_llama_index(url).stream_complete("One, two,"))


def _run_agent(url: str, responses: bool) -> None:
    import openai
    from agents import (
        Agent,
        ModelSettings,
        OpenAIChatCompletionsModel,
        OpenAIResponsesModel,
        Runner,
        set_tracing_disabled,
    )

    set_tracing_disabled(True)
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    kind = OpenAIResponsesModel if responses else OpenAIChatCompletionsModel
    # A response that is cut off is an error to this package: it has room to come to its end.
    settings = ModelSettings(max_tokens=2000 if responses else 16)
    model = kind(model=MODEL, openai_client=client)
    agent = Agent(name="a", instructions="Be brief.", model=model, model_settings=settings)
    assert Runner.run_sync(agent, "Name a colour.").final_output


def agents_responses(url: str) -> None:
    _run_agent(url, True)


def agents_chat(url: str) -> None:
    _run_agent(url, False)


def smolagents_model(url: str) -> None:
    from smolagents import ChatMessage, OpenAIServerModel

    model = OpenAIServerModel(MODEL, api_base=f"{url}/v1", api_key="none", max_tokens=8)
    parts = [{"type": "text", "text": "Name a colour."}]
    assert model.generate([ChatMessage(role="user", content=parts)]).content


def llm_prompt(url: str) -> None:
    from llm.default_plugins.openai_models import Chat

    model = Chat("narrows", model_name=MODEL, api_base=f"{url}/v1")
    model.key = "none"
    assert model.prompt("Name a colour.", max_tokens=8, stream=False).text()
    assert "".join(model.prompt("Name a colour.", max_tokens=8))


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
    Check("langchain-openai", "chat, whole and streamed", langchain),
    Check("langchain-openai", "structured output", langchain_structured),
    Check("langchain-openai", "responses, whole and streamed", langchain_responses),
    Check("litellm", "`openai/`, whole and streamed", litellm_chat),
    Check("litellm", "`anthropic/`, whole and streamed", litellm_messages),
    Check("litellm", "responses", litellm_responses),
    Check("instructor", "JSON of a schema", instructor_schema),
    Check("pydantic-ai-slim", "chat, two turns", pydantic_ai_chat),
    Check("pydantic-ai-slim", "native output of a class", pydantic_ai_structured),
    Check("pydantic-ai-slim", "responses", pydantic_ai_responses),
    Check("llama-index-llms-openai", "chat, by an alias", llama_index_chat),
    Check("llama-index-llms-openai", "complete, whole and streamed", llama_index_complete),
    Check("openai-agents", "responses", agents_responses),
    Check("openai-agents", "chat", agents_chat),
    Check("smolagents", "model of an agent", smolagents_model),
    Check("llm", "prompt, whole and streamed", llm_prompt),
)


@contextmanager
def served() -> Iterator[str]:
    """The address of an ``up`` of its own, with the built-in model."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "narrows.toml")
        config.write_text(f'[edge]\naliases = ["{ALIAS}"]\n')
        words = f"up --config {config} --state {folder}/state --budget 10MB --port {port}".split()
        own = [sys.executable, "-m", "narrows.cli.main"]
        program = [os.environ["NARROWS"]] if os.environ.get("NARROWS") else own
        with Path(folder, "said").open("wb") as said:
            up = subprocess.Popen([*program, *words], stdout=said, stderr=said)
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


def run(url: str, packages: set[str]) -> list[tuple[Check, str, str]]:
    """Each check of an installed package with its version and what came of it. ``packages``:
    of these alone, where any are named."""
    found = []
    for check in CHECKS:
        if packages and check.package not in packages:
            continue
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


def kept(found: list[tuple[Check, str, str]], text: str) -> list[tuple[Check, str, str]]:
    """``found``, and what the page says of the checks that were not run, in the order of all."""
    rows = re.findall(r"^\| (\S+) (\S+) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    before = {(package, what): (version, said) for package, version, what, said in rows}
    now = {one: (version, said) for one, version, said in found}
    known = ((one, now.get(one) or before.get((one.package, one.what))) for one in CHECKS)
    return [(one, *what) for one, what in known if what is not None]


def main() -> int:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the internet
    with served() as url:
        found = run(url, set(sys.argv[1:]) - {"--write"})
    if "--write" in sys.argv[1:]:
        text = PAGE.read_text()
        rows = kept(found, text)
        made = re.sub(r"\| package \| call \|.*\n(\|.*\n)+", lambda _: table(rows), text)
        temporary = PAGE.with_suffix(".part")
        temporary.write_text(made)
        os.replace(temporary, PAGE)
    return int(any(said != "works" for _, _, said in found))


if __name__ == "__main__":
    sys.exit(main())
