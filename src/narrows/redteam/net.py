"""What an auditor explains of a site's tape, attack by attack: the charge net of that.

The site's honest strong model is the one that the hostile enclave imitates (``Narrator``), so the
auditor scores with that one, and scores everything (f = 1). What an attack's answers explain is
taken off its charge; an answer belongs to the attack whose API key asked for it. A link without a
request of the edge, as the attacks at the gate's port have it, explains nothing.

Law: payload <= net charge + statistical error, as for the raw one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from narrows.alarms.sequential import Alarm
from narrows.audit.auditor import Rules, TapeAuditor
from narrows.audit.code import ONE_BIT
from narrows.audit.scorer import check_fields
from narrows.models.api import Logits
from narrows.models.bytemodel import ByteModel
from narrows.redteam.tokens import ALPHABET, CONTEXT
from narrows.wire.spool.reader import SpoolReader
from narrows.wire.tape import TapeReader

_NEVER = -(1 << 29)


class NarratorScorer:
    """The narrator's own rows: letters alone, whatever was asked."""

    def __init__(self, model: ByteModel) -> None:
        self._model = model
        self.name = "narrator"
        self.digest = model.digest
        self.vocabulary = model.tokenizer.digest
        self.vocab_size = model.vocab_size
        self.max_context = model.max_context

    def prompt(self, body: Mapping[str, Any]) -> list[int]:
        check_fields(body)
        return list(CONTEXT)

    def rows(self, context: Sequence[int], tokens: Sequence[int]) -> Iterator[Logits]:
        stream = self._model.open(context)
        row = self._model.logits(stream)
        for token in tokens:
            letters = np.full(self.vocab_size, _NEVER, np.int32)
            letters[ALPHABET] = row[ALPHABET]
            yield letters
            row = self._model.advance([stream], [token])[0]


def explained_bits(spool: Path, private_key: bytes) -> dict[int, float]:
    """By API key, what of its answers the auditor explains, in bits. Alarms are each key's own:
    what one attack rings for takes no credit from the next. InputError where the spool was
    altered or breaks the tape's rules."""
    reader = SpoolReader(spool, private_key)
    found: dict[int, float] = defaultdict(float)
    model = ByteModel()
    auditor = TapeAuditor(NarratorScorer(model), {model.digest: model}, Rules(), bytes(32))
    alarms: dict[int, Alarm] = defaultdict(Alarm)
    key_id = -1
    for chapter in reader.chapters():
        auditor.replay.next_tape(TapeReader())
        offset = reader.start(chapter)
        while data := reader.read(chapter, offset):
            offset += len(data)
            for record in auditor.replay.reader.feed(data):
                checked = auditor.replay.checked_bits
                for segment in auditor.replay.take(record):
                    key_id = segment.request.scope
                    auditor.alarm = alarms[key_id]
                    before = auditor.exact_q16 + auditor.drawn_q16
                    auditor.take(segment)
                    if not auditor.alarm.raised:
                        after = auditor.exact_q16 + auditor.drawn_q16
                        found[key_id] += (after - before) / ONE_BIT
                # Attacks follow each other, so a check ends an answer of the last key heard of.
                if not auditor.alarm.raised:
                    found[key_id] += auditor.replay.checked_bits - checked
        auditor.replay.end()
    return dict(found)
