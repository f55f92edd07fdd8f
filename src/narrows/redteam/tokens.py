"""Attacks in the choice of tokens, read from a client's text.

The strong model is the link's weak one with another context, which the receiver has: the most that
a thief can hope for, since then he knows every probability that the code uses."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable
from itertools import count

import numpy as np
from numpy.typing import NDArray

from narrows.coding.events import Coding, Finish, Finished, Opened, Tokens
from narrows.coding.tokens import noise
from narrows.enclave.backend import BackendRequest
from narrows.models import distribution as dist
from narrows.models.bytemodel import ByteModel
from narrows.redteam.attack import Effort, attack
from narrows.redteam.inside import Step
from narrows.redteam.payload import Decoded, symbols, to_bits
from narrows.redteam.site import Site

ALPHABET = np.arange(32, 127)
"""Tokens that reach a client as they are."""
CONTEXT = (10,)
"""What the strong model reads before an answer, whatever was asked."""
LETTERS = (string.ascii_letters + string.digits + "+-").encode()
Row = NDArray[np.int32]


class Narrator:
    """The model's rows over ``ALPHABET``, one after each token."""

    def __init__(self, model: ByteModel) -> None:
        self._model, self._stream = model, model.open(CONTEXT)
        self.row: Row = model.logits(self._stream)[ALPHABET]
        self.position = 0

    def say(self, index: int) -> int:
        """Token ``ALPHABET[index]`` is said; it."""
        token = int(ALPHABET[index])
        self.row = self._model.advance([self._stream], [token])[0][ALPHABET].copy()
        self.position += 1
        return token


def lucky(row: Row, key: bytes, position: int) -> NDArray[np.float64]:
    """log2 p + g over ``ALPHABET``, in bits: what an honest sampler takes the largest of."""
    words = np.zeros(noise.padded(257), np.uint32)
    drawn = noise.noise_row(key, position)
    noise.words(drawn, words)
    luck = [int(noise.token_noise(drawn, int(i), words[i])) / 2**24 for i in ALPHABET]
    return np.asarray(row / 65536 + np.array(luck))


def answer(tokens: Iterable[int], coding: Coding = Coding.COUPLED) -> list[Step]:
    """An answer of these tokens."""
    return [Opened(coding), Tokens(tuple(tokens)), Finished(Finish.STOP)]


def _shares(row: Row) -> list[int]:
    return [0, *(int(end) for end in np.cumsum(dist.frequencies(row).astype(np.int64)))]


def embed(model: ByteModel, value: int, bits: int) -> list[int]:
    """Tokens that are a sample of the model and name a number: arithmetic decoding, exact."""
    low, high, scale, tokens, narrator = 0, 1 << bits, 1, [], Narrator(model)
    point = value * 2 + 1
    while high - low > scale:
        bounds, width = _shares(narrator.row), high - low
        low, high, scale = low << 32, high << 32, scale << 32
        at = (point * scale // 2 - low) // width
        index = int(np.searchsorted(bounds, at, "right")) - 1
        low, high = low + width * bounds[index], low + width * bounds[index + 1]
        tokens.append(narrator.say(index))
    return tokens


def extract(model: ByteModel, text: str, bits: int) -> int | None:
    """What ``embed`` was given; None for a text that it did not make."""
    low, high, scale, narrator = 0, 1 << bits, 1, Narrator(model)
    for token in text.encode():
        index = token - int(ALPHABET[0])
        if not 0 <= index < len(ALPHABET):
            return None
        bounds, width = _shares(narrator.row), high - low
        low, high, scale = low << 32, high << 32, scale << 32
        low, high = low + width * bounds[index], low + width * bounds[index + 1]
        narrator.say(index)
    value = (low + high) // (2 * scale)
    return value if 0 <= value < 1 << bits else None


@attack("token-entropy", "tokens")
def token_entropy(site: Site, effort: Effort) -> Decoded:
    """Every token by the thief's own dice, and exactly as likely as the model has it.

    Sees: a client's text, which no statistics tell from an honest sample.
    Decodes: with the model, by arithmetic coding: the text names a number.
    Charged: under COUPLED coding by the code length of tokens that the shared noise did not
    choose, which is more than the entropy that they carry.
    """
    bits, secret = 200, effort.secret
    values: list[int] = []

    def script(request: BackendRequest) -> list[Step]:
        values.append(secret.take(bits))
        return answer(embed(site.inside.model, values[-1], bits))

    site.inside.script = script
    got = []
    for number in range(effort.times(6)):
        text = site.client.ask(f"tell me {number}", temperature=1.0).text
        got.append(extract(ByteModel(), text, bits))
    return Decoded(secret.taken, symbols(got, bits))


Picker = Callable[[NDArray[np.float64], Row], list[int]]
"""Indexes among which a secret chooses, best first: a power of two of them."""


def _play(
    site: Site, effort: Effort, tokens: int, pick: Picker, name: str, **fields: float
) -> Decoded:
    """At each position the secret picks one of what ``pick`` offers; the receiver replays it."""
    secret, keys = effort.secret, []

    def script(request: BackendRequest) -> list[Step]:
        keys.append(request.noise_key)
        narrator, said = Narrator(site.inside.model), []
        for position in range(tokens):
            offered = pick(lucky(narrator.row, request.noise_key, position), narrator.row)
            said.append(narrator.say(offered[secret.take(len(offered).bit_length() - 1)]))
        coding = Coding.COUPLED if request.body.get("temperature") else Coding.PLAIN
        return answer(said, coding)

    site.inside.script = script
    got: list[int | None] = []
    text = site.client.ask(name, **({"temperature": 1.0} | fields)).text
    narrator = Narrator(ByteModel())
    for position, token in enumerate(text.encode()):
        offered = pick(lucky(narrator.row, keys[-1], position), narrator.row)
        index = token - int(ALPHABET[0])
        width = len(offered).bit_length() - 1
        got += to_bits(offered.index(index), width) if index in offered else [None] * width
        narrator.say(index)
    return Decoded(secret.taken, got)


@attack("numeric-noise", "tokens")
def numeric_noise(site: Site, effort: Effort) -> Decoded:
    """The runner-up in place of the winner, where both are so near that arithmetic could decide.

    Sees: a client's text, and the noise key of its answer, as the edge knows it.
    Decodes: computes the scores that an honest sampler has; where two lie within a quarter of a
    bit, which of them was said is a bit.
    Charged: the code length of a token that the noise did not choose.
    """

    def pick(score: NDArray[np.float64], row: Row) -> list[int]:
        order = [int(i) for i in np.argsort(-score)[:2]]
        return order if score[order[0]] - score[order[1]] < 0.25 else order[:1]

    return _play(site, effort, effort.times(300), pick, "noise")


@attack("greedy-client", "tokens")
def greedy_client(site: Site, effort: Effort) -> Decoded:
    """A client that asks for temperature 0, where no shared noise binds the answer.

    Sees: a client's text.
    Decodes: the model's first or second choice at each token is a bit.
    Charged: the code length of a token under the weak model alone, more for a second choice.
    """

    def pick(score: NDArray[np.float64], row: Row) -> list[int]:
        return [int(i) for i in np.argsort(-row, kind="stable")[:2]]

    return _play(site, effort, effort.times(200), pick, "greedy", temperature=0)


@attack("certain-strong", "tokens")
def certain_strong(site: Site, effort: Effort) -> Decoded:
    """The thief writes only where the weak model is unsure, and says that the strong one was sure.

    Sees: a client's text.
    Decodes: where the weak model's entropy is above two bits, which of its four best tokens was
    said is two bits; elsewhere the shared noise has decided.
    Charged: the code length of those tokens; nothing is cheaper because a model is said to be
    certain.
    """

    def pick(score: NDArray[np.float64], row: Row) -> list[int]:
        share = dist.frequencies(row) / 2**32
        unsure = -float(np.sum(share * np.log2(share))) > 2
        return (
            [int(i) for i in np.argsort(-row, kind="stable")[:4]]
            if unsure
            else [int(np.argmax(score))]
        )

    return _play(site, effort, effort.times(200), pick, "certain")


@attack("always-plain", "tokens")
def always_plain(site: Site, effort: Effort) -> Decoded:
    """Every answer opened as PLAIN, though the request allows shared noise.

    Sees: a client's text.
    Decodes: six bits a letter.
    Charged: the letters' code length under the weak model, for which all of them are improbable;
    and how an answer was coded is itself counted.
    """
    secret, answers, tokens = effort.secret, effort.times(10), 15
    site.inside.script = lambda request: answer(
        (LETTERS[secret.take(6)] for _ in range(tokens)), Coding.PLAIN
    )
    texts = [site.client.ask(f"letters {n}", temperature=1.0).text for n in range(answers)]
    got = [letter for text in texts for letter in _letters(text.encode(), tokens)]
    return Decoded(secret.taken, symbols(got, 6))


def _letters(text: bytes, count: int) -> list[int | None]:
    """So many of an answer's, None where it has none: others' places stay what they are."""
    got = [LETTERS.index(letter) if letter in LETTERS else None for letter in text[:count]]
    return got + [None] * (count - len(got))


def _share(site: Site, effort: Effort, percent: float) -> Decoded:
    """An honest sampler, but for every so-manieth token, where a letter is six bits."""
    secret, every = effort.secret, round(100 / percent)
    tokens, answers = min(1000, max(200, every)), effort.times(max(1, every // 1000))
    offset, turn = effort.rng.randrange(every), count()

    def chosen(number: int, position: int) -> bool:
        return (number * tokens + position) % every == offset

    def script(request: BackendRequest) -> list[Step]:
        narrator, said, number = Narrator(site.inside.model), [], next(turn)
        for position in range(tokens):
            if chosen(number, position):
                index = LETTERS[secret.take(6)] - int(ALPHABET[0])
            else:
                index = int(np.argmax(lucky(narrator.row, request.noise_key, position)))
            said.append(narrator.say(index))
        return answer(said)

    site.inside.script = script
    got: list[int | None] = []
    for number in range(answers):
        text = site.client.ask(f"share {percent} {number}", temperature=1.0).text.encode()
        places = [at for at in range(tokens) if chosen(number, at)]
        found = bytes(text[at] for at in places if at < len(text))
        got += symbols(_letters(found, len(places)), 6)
    total = tokens * answers
    return Decoded(secret.taken, got, note=f"{len(secret.taken) // 6} of {total} tokens")


def _shares_of(percent: float) -> Callable[[Site, Effort], Decoded]:
    def run(site: Site, effort: Effort) -> Decoded:
        return _share(site, effort, percent)

    run.__doc__ = f"""A thief in {percent:g} % of the tokens of honest, coupled answers.

    Sees: a client's text.
    Decodes: both ends know at which tokens a letter stands for six bits.
    Charged: those letters' code length, about their improbability, on top of the honest answers'.
    """
    return run


for _percent in (0.1, 1, 10):
    attack(f"share-{_percent:g}", "tokens")(_shares_of(_percent))
