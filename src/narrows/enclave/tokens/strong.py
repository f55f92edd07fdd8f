"""What the enclave knows of a strong model behind a server: its words, not its weights.

Read from the folder that the server was started with. Token ids mean nothing without it, and the
server's own word for what they mean is compared with it by the probe.
"""

from __future__ import annotations

from pathlib import Path

from narrows.errors import ArtifactError
from narrows.models.checkpoint.hf_tokenizer import load_hf_text
from narrows.models.text.chat import PLAIN_WITH_BOS, ChatRenderer
from narrows.models.text.tokenizer import BpeTokenizer

_OTHER_CHANNELS = ("<think>", "[THINK]", "<|channel|>", "<|start_of_thought|>", "<seed:think>")


class StrongText:
    """``tokenizer``, ``chat`` and ``context`` (tokens) of the model in ``folder``. ArtifactError:
    no such folder, or a tokenizer or template that cannot be used."""

    def __init__(self, folder: Path) -> None:
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

    @property
    def other_channels(self) -> str:
        """The marker by which the model says what is no content (its reasoning); empty where it
        has none. Only the server's own parser takes such answers apart."""
        written = self._template
        known = {self.tokenizer.token_bytes(i) for i in range(self.tokenizer.vocab_size)}
        for marker in _OTHER_CHANNELS:
            if marker in written or marker.encode() in known:
                return marker
        return ""
