"""How a model reads and writes: what turns text into the tokens that the link would code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from narrows.errors import ArtifactError
from narrows.models.artifact import Artifact
from narrows.models.checkpoint.source import SourceModel, TokenizerData
from narrows.models.registry import resolve
from narrows.models.text.chat import ChatRenderer
from narrows.models.text.tokenizer import TOKENIZER_TENSOR, BpeTokenizer
from narrows.training.corpus.examples import Example, read_answers
from narrows.training.data import TrainingData
from narrows.training.recipe import Recipe


class Speech:
    """A tokenizer over ``vocab`` ids and a chat template. ArtifactError: unusable."""

    def __init__(self, data: TokenizerData, vocab: int) -> None:
        self.data = data
        self.tokenizer = BpeTokenizer(data.json_text, vocab_size=vocab, eos_ids=data.eos_ids)
        self._chat = ChatRenderer(
            data.chat_template,
            self.tokenizer,
            bos_token=data.bos_token,
            eos_token=data.eos_token,
        )

    @classmethod
    def of_artifact(cls, name: str) -> Speech:
        """That of an artifact, by name or path."""
        artifact = Artifact.open(resolve(name))
        match artifact.header.get("chat"):
            case {"template": str(template), "bos_token": str(bos), "eos_token": str(eos)}:
                text = artifact.tensor(TOKENIZER_TENSOR).tobytes().decode("utf-8")
                ids = tuple(cast(Any, artifact.header["eos_ids"]))
                vocab = cast(Any, artifact.header["numerics"])["vocab"]
                return cls(TokenizerData(text, ids, template, bos, eos), vocab)
        raise ArtifactError(f"{artifact.path.name} has no chat template")

    @classmethod
    def of_source(cls, source: SourceModel) -> Speech:
        """That of a checkpoint."""
        return cls(source.tokenizer, source.config.vocab_size)

    def render_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of a conversation up to the assistant's next answer. Raises InputError."""
        return self._chat.render(messages)

    def data_of(
        self, recipe: Recipe, *, shards: Path | None, answers: Sequence[Path]
    ) -> TrainingData:
        """The examples of a job. Text answers end with the first of the end tokens, whichever the
        model's own chats use; the link takes the one that the model then holds likelier."""
        text: list[Example] = []
        for path in answers:
            text += read_answers(path, self, self.tokenizer, min(self.data.eos_ids))
        token_bytes = self.tokenizer.token_bytes
        return TrainingData(
            recipe,
            shards=shards,
            text=text,
            vocab=self.tokenizer.vocab_size,
            byte_length=lambda ids: sum(len(token_bytes(i)) for i in ids),
        )
