"""Encoders that hide a random payload in honest-looking answers, with their decoders: what they
carry is charged. Their receiver knows everything: weights, noise, the encoder."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from audit.rig import strong, tiny_path
from audit.test_audit_code import KEY, rows
from narrows.bench.audit import run
from narrows.bench.audit.thieves import (
    PICKERS,
    ModelSpeaker,
    Payload,
    Theft,
    charges,
    hear_picked,
    near_winner,
    say_picked,
    thefts,
)
from narrows.cli.main import main
from narrows.coding.tokens.sampler import sample

SIZE = 200


class FixedRows:
    """A model that says what it wants, whatever was said."""

    def __init__(self, logits: NDArray[np.int32]) -> None:
        self._logits = logits
        self._position = 0

    def row(self) -> NDArray[np.int32]:
        return self._logits[self._position]

    def say(self, token: int) -> None:
        self._position = min(self._position + 1, len(self._logits) - 1)


def test_the_nearest_is_the_sampler_s_winner() -> None:
    logits = rows(50, SIZE)
    for position, row in enumerate(logits):
        near = near_winner(row, KEY, position)
        assert near[0] == (sample(row, 65536, 65536, KEY, position), 0.0)
        gaps = [gap for _, gap in near]
        assert gaps == sorted(gaps)


@pytest.mark.parametrize("name", PICKERS)
def test_who_picks_within_the_numeric_noise_pays_for_it(name: str) -> None:
    pick = PICKERS[name]
    for seed in range(3):
        logits, payload = rows(300, SIZE, seed=seed), Payload(seed)
        tokens = say_picked(FixedRows(logits), KEY, pick, payload, len(logits))
        assert hear_picked(FixedRows(logits), KEY, pick, tokens) == payload.read
        assert len(payload.read) > 3
        charged = sum(charges(FixedRows(logits), KEY, tokens))
        print(f"{name}: payload {len(payload.read)} bits, charge {charged:.0f}")
        assert len(payload.read) <= charged + 20


def found(seed: int) -> list[Theft]:
    logits = rows(600, SIZE, seed=seed)
    return list(thefts(lambda: FixedRows(logits), KEY, seed, 100))


def test_a_full_entropy_thief_is_charged_his_payload_and_heard() -> None:
    for seed in range(4):
        theft = found(seed)[-1]
        print(f"payload {theft.payload_bits} bits, charge {theft.charge_bits:.0f}")
        assert theft.received
        assert theft.charged
        assert theft.heard_bits is not None
        assert theft.heard_bits < 1000


def test_thieves_of_a_real_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each token decides the next one's logits."""
    model = strong()
    speaker = ModelSpeaker(model, [1, 2, 3])
    pick, payload = PICKERS["any of eight within 0.5 bit"], Payload(1)
    said = say_picked(speaker, KEY, pick, payload, 30)
    speaker.close()
    speaker = ModelSpeaker(model, [1, 2, 3])
    assert hear_picked(speaker, KEY, pick, said) == payload.read
    speaker.close()
    monkeypatch.setattr(run, "STRONG", str(tiny_path(1)))
    with pytest.raises(SystemExit) as ended:
        main(["bench", "audit", "--thieves", "1", "--tokens", "20", "--json"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert out.count('"received": true') == 4
    assert '"charged": false' not in out
