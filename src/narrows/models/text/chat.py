"""Chat messages to token ids with the model's own template, the same on both ends.

The template runs in jinja2's immutable sandbox with the settings that Hugging Face gives it
(trim_blocks, lstrip_blocks, loop controls, ``raise_exception``, ``tojson``). There is no clock:
``strftime_now`` tells one fixed day, since enclave and edge must render alike.

Only the template writes control tokens. What a message says is plain text, whatever it looks
like:
1. A guard character is chosen that occurs in no message: the highest free one of Unicode's
   last private plane.
2. In every string of the messages it is put behind the first character of each control
   token's text, at the end where the string ends like the start of one, and at the start
   where the string starts like the end of one. So none can be formed inside a message nor
   across its border.
3. The template is rendered, markers are found, then the guard is removed from the text
   between them, which is tokenised as plain text.
Added tokens that the tokenizer does not call special (``<think>``) are recognised in
messages too, as the model's own tokenizer does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from narrows.errors import ArtifactError, InputError
from narrows.models.artifact import Artifact
from narrows.models.text.template import MAX_CHARACTERS, TemplateSandbox
from narrows.models.text.tokenizer import BpeTokenizer

MAX_MESSAGES = 8192
MAX_TEMPLATE_CHARACTERS = 1 << 18
ROLES = ("system", "developer", "user", "assistant", "tool", "function")

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
PLAIN_WITH_BOS = "{{ bos_token }}" + PLAIN_TEMPLATE
"""The same for a model whose every text begins with that token."""
_FAULTS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError)
_REHEARSED = (["user"], ["system", "user"], ["user", "assistant", "user"])
_LAST_PLANE = range(0x10FFFD, 0x100000 - 1, -1)


class ChatRenderer:
    """A model's chat template. An empty one means ``role: text`` lines.

    ``bos_token`` and ``eos_token`` are what the template sees under these names.
    ArtifactError: the template cannot be compiled.
    """

    def __init__(
        self, template: str, tokenizer: BpeTokenizer, *, bos_token: str = "", eos_token: str = ""
    ) -> None:
        if len(template) > MAX_TEMPLATE_CHARACTERS:
            raise ArtifactError("the chat template is larger than any may be")
        environment = TemplateSandbox()
        try:
            self._template = environment.from_string(template or PLAIN_TEMPLATE)
        except (jinja2.exceptions.TemplateError, RecursionError) as error:
            raise ArtifactError(f"the chat template is malformed: {error}") from error
        self._tokenizer = tokenizer
        self._names = {"bos_token": bos_token, "eos_token": eos_token}
        self._guards = _Guards(tokenizer.control_tokens)

    @classmethod
    def from_artifact(cls, artifact: Artifact, tokenizer: BpeTokenizer) -> ChatRenderer:
        """The renderer that an artifact describes. Raises ArtifactError."""
        match artifact.header.get("chat"):
            case {"template": str(template), "bos_token": str(bos), "eos_token": str(eos)}:
                return cls(template, tokenizer, bos_token=bos, eos_token=eos)
        raise ArtifactError(f"{artifact.path.name} has no chat template, not even an empty one")

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        answer: bool = True,
    ) -> list[int]:
        """Ids of the conversation, up to where the assistant's next answer starts.

        Content may be a string, text parts, or None (empty). ``tools``: what the template sees
        under that name; ``variables``: what else it sees. Without ``answer`` no answer is begun.
        InputError: unknown role,
        too much text, or a conversation that the template refuses or fails on, the same on every
        machine. ArtifactError: a template that calls itself without end, or messages that nest
        too deeply.
        """
        plain = _plain(messages)
        guard = _free_character([plain, list(tools or ()), dict(variables or {})])
        named = {
            "messages": plain,
            "tools": list(tools) if tools else None,
            "documents": None,
            **(variables or {}),
        }
        text = self._text(named, guard, answer)
        ids = self._tokenizer.encode_chat(text, guard=guard)
        if not ids:
            raise InputError("the chat template made nothing of the messages")
        return ids

    def rehearse(self) -> None:
        """Render a few short chats. ArtifactError: one fails, or the template refuses all; that
        it refuses some (no system turn, say) is its right."""
        refused: list[InputError] = []
        for roles in _REHEARSED:
            try:
                self.render([{"role": role, "content": "Hello."} for role in roles])
            except InputError as error:
                # What raise_exception raises; jinja2's own faults are subclasses of it.
                if type(error.__cause__) is not jinja2.exceptions.TemplateError:
                    raise ArtifactError(f"the chat template cannot be used: {error}") from error
                refused.append(error)
        if len(refused) == len(_REHEARSED):
            raise ArtifactError(f"the chat template refuses every chat: {refused[0]}")

    def _text(self, named: Mapping[str, Any], guard: str, answer: bool) -> str:
        parts: list[str] = []
        size = 0
        try:
            said = {name: self._guards.put(value, guard) for name, value in named.items()}
            said |= self._names | {"add_generation_prompt": answer}
            for part in self._template.generate(**said):
                size += len(part)
                if size > MAX_CHARACTERS:
                    raise InputError("the chat template writes without end")
                parts.append(part)
        except jinja2.exceptions.TemplateError as error:
            raise InputError(f"the chat template refuses the messages: {error}") from error
        except RecursionError as error:
            # Where the stack ends depends on the caller: two ends would not agree on the outcome.
            why = "the chat template calls itself without end, or the messages nest too deeply"
            raise ArtifactError(why) from error
        except _FAULTS as error:
            raise InputError(f"the chat template fails on the messages: {error!r}") from error
        return "".join(parts)


def _plain(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with checked roles and with content as one string."""
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise InputError(f"{len(messages)} messages; 1 to {MAX_MESSAGES} are taken")
    plain = []
    for message in messages:
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ROLES:
            raise InputError(f"unknown role {role!r:.80}")
        plain.append(dict(message) | {"content": _content(message.get("content"))})
    return plain


def _content(content: object) -> str:
    match content:
        case None:
            return ""
        case str():
            return content
        case list() if all(isinstance(part, Mapping) for part in content):
            texts = [part.get("text", "") for part in content]
            if all(isinstance(text, str) for text in texts):
                return "".join(texts)
    raise InputError("a message's content is neither text nor text parts")


def _strings(value: object) -> list[str]:
    """Every string in the messages, dictionary keys too."""
    found: list[str] = []
    rest = [value]
    while rest:
        match rest.pop():
            case str(text):
                found.append(text)
            case dict(row):
                rest += [*row.keys(), *row.values()]
            case list() | tuple() as items:
                rest += items
    return found


def _free_character(messages: object) -> str:
    texts = _strings(messages)
    if sum(map(len, texts)) > MAX_CHARACTERS:
        raise InputError(f"more than {MAX_CHARACTERS} characters of messages")
    used: set[str] = set().union(*texts)
    for code in _LAST_PLANE:
        if chr(code) not in used:
            return chr(code)
    raise InputError("the messages use every private character there is")


class _Guards:
    """Step 2 of the module's rule."""

    def __init__(self, control_tokens: Sequence[str]) -> None:
        inside = [f"{re.escape(t[0])}(?={re.escape(t[1:])})" for t in control_tokens]
        ends = {t[:n] for t in control_tokens for n in range(1, len(t))}
        starts = {t[n:] for t in control_tokens for n in range(1, len(t))}
        self._inside = re.compile("|".join(inside)) if inside else None
        self._ends = tuple(sorted(ends))
        self._starts = tuple(sorted(starts))

    def put(self, value: Any, guard: str) -> Any:
        """The same structure, every string guarded."""
        match value:
            case str():
                return self._text(value, guard)
            case dict():
                return {self._text(str(k), guard): self.put(v, guard) for k, v in value.items()}
            case list() | tuple():
                return [self.put(item, guard) for item in value]
        return value

    def _text(self, text: str, guard: str) -> str:
        if self._inside is None or not text:
            return text
        before = guard if text.startswith(self._starts) else ""
        after = guard if text.endswith(self._ends) else ""
        # A control token may start inside another one: the empty look-ahead keeps both.
        return before + self._inside.sub(lambda m: m.group() + guard, text) + after
