"""What the enclave knows of a strong model behind a server: its words, not its weights.

Read from the folder that the server was started with. Token ids mean nothing without it, and the
server's own word for what they mean is compared with it by the probe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from narrows.coding.markup import THINK, CallForm, Markup, ReasoningForm
from narrows.coding.spec import wants_tools
from narrows.enclave.tokens.writing import call_form, reasoning_form
from narrows.errors import ArtifactError
from narrows.models.checkpoint.hf_tokenizer import load_hf_text
from narrows.models.text.chat import PLAIN_WITH_BOS, ChatRenderer
from narrows.models.text.served import served_messages, served_tools, template_variables
from narrows.models.text.tokenizer import BpeTokenizer

_FOREIGN = ("[THINK]", "<|channel|>", "<|start_of_thought|>", "<seed:think>")
_MAX_FRONTS = 64


class StrongText:
    """``tokenizer``, ``chat`` and ``context`` (tokens) of the model in ``folder``. ``calls``: how
    it writes calls of tools; ``reasons``: whether it reasons between markers that are known here.
    ArtifactError: no such folder, or a tokenizer or template that cannot be used."""

    def __init__(
        self,
        folder: Path,
        *,
        tools: Literal["auto", "hermes", "llama3", "none"] = "auto",
        reasoning: Literal["auto", "think", "none"] = "auto",
    ) -> None:
        data, vocab_size, self.context = load_hf_text(folder)
        self.tokenizer = BpeTokenizer(data.json_text, vocab_size=vocab_size, eos_ids=data.eos_ids)
        if data.chat_template in ("", PLAIN_WITH_BOS):
            raise ArtifactError(f"{folder.name} has no chat template")
        self.chat = ChatRenderer(
            data.chat_template,
            self.tokenizer,
            bos_token=data.bos_token,
            eos_token=data.eos_token,
        )
        self.chat.rehearse()
        self._template = data.chat_template
        self._reasoning = reasoning
        self._fronts: dict[str, ReasoningForm] = {}
        self.reasons = reasoning == "think" or (reasoning == "auto" and self._knows(THINK))
        named = CallForm(tools) if tools != "auto" else call_form(self.chat, self.tokenizer)
        self.calls = named

    @property
    def other_channels(self) -> str:
        """The marker by which the model says what is no content (its reasoning), where it is one
        that only its server's parser takes apart; empty where it has none."""
        if self._reasoning != "auto":
            return ""
        return next(filter(self._knows, _FOREIGN), "")

    def prompt(self, body: Mapping[str, Any]) -> list[int]:
        """What the server would make of the request. InputError, ArtifactError: the template
        does not take it."""
        return self.chat.render(
            served_messages(body["messages"]),
            tools=served_tools(body.get("tools") or ()),
            variables=template_variables(body),
        )

    def markup(self, body: Mapping[str, Any]) -> Markup:
        """How the answer is written. Raises as ``prompt``."""
        form = self.calls if wants_tools(body) else CallForm.NONE
        return Markup(self._front(template_variables(body)), form)

    def _front(self, variables: Mapping[str, Any]) -> ReasoningForm:
        if not self.reasons:
            return ReasoningForm.NONE
        key = json.dumps(variables, sort_keys=True)
        known = self._fronts.get(key)
        if known is None:
            known = reasoning_form(self.chat, self.tokenizer, variables)
            if len(self._fronts) < _MAX_FRONTS:
                self._fronts[key] = known
        return known

    def _knows(self, marker: str) -> bool:
        if marker in self._template:
            return True
        data = marker.encode()
        tokens = range(self.tokenizer.vocab_size)
        return any(self.tokenizer.token_bytes(token) == data for token in tokens)
