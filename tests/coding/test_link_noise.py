"""Coupled answers under every noise family on a link: what opens them, and who understands it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coding.link_fakes import TinyModel
from coding.link_scripts import every_32nd
from narrows.coding.events import (
    OWN_NOISE,
    AnswerSpec,
    Coding,
    Event,
    Finish,
    Finished,
    Noise,
    NoiseFamily,
    Opened,
    Tokens,
)
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.encoder import LinkEncoder
from narrows.coding.link.options import LinkOptions
from narrows.coding.tokens.sampler import sample
from narrows.errors import InputError, LinkError

VLLM, SGLANG = Noise(NoiseFamily.SEED_VLLM, 40), Noise(NoiseFamily.SEED_SGLANG, 7)
ALL = LinkOptions(noise=4)


def specs(count: int) -> list[AnswerSpec]:
    return [AnswerSpec((3, 5, k), 60, noise_key=bytes([k]) * 32) for k in range(count)]


def drawn(spec: AnswerSpec, noise: Noise) -> list[int]:
    """What a server with the weak model's own probabilities draws."""
    model, tokens = TinyModel(), list(spec.prompt)
    for position in range(50):
        row = model._row(tokens)
        row[model.tokenizer.eos] = -(1 << 29)
        tokens.append(sample(row, 65536, 65536, spec.noise_key, position, noise))
    return tokens[3:]


def coded(noises: list[Noise], options: LinkOptions, told: list[Noise] | None = None) -> bytes:
    """Answers one after the other, drawn with ``noises``; ``told``: what the encoder is told."""
    encoder, all_ = LinkEncoder(TinyModel(), options, choice=every_32nd()), specs(len(noises))
    for spec in all_:
        encoder.request(spec)
    data, now_ms = b"", 0.0
    for number, noise in enumerate(noises):
        encoder.open(number, Coding.COUPLED, (told or noises)[number])
        encoder.put(number, Tokens(tuple(drawn(all_[number], noise))))
        encoder.put(number, Finished(Finish.LENGTH))
        now_ms += 1000
        data += encoder.poll(now_ms)
    return data


def read(data: bytes, count: int, options: LinkOptions) -> list[tuple[int, Event]]:
    decoder = LinkDecoder(TinyModel(), options)
    for spec in specs(count):
        decoder.request(spec)
    return decoder.feed(data)


def opened(events: list[tuple[int, Event]]) -> list[Opened]:
    return [event for _, event in events if isinstance(event, Opened)]


def test_every_family_crosses_and_is_told() -> None:
    noises = [VLLM, SGLANG, OWN_NOISE, VLLM, Noise(NoiseFamily.SEED_VLLM, 0)]
    events = read(coded(noises, ALL), 5, ALL)
    assert opened(events) == [Opened(Coding.COUPLED, noise) for noise in noises]
    for number, spec in enumerate(specs(5)):
        ids = [i for n, e in events if n == number and isinstance(e, Tokens) for i in e.ids]
        assert ids == drawn(spec, noises[number])


@pytest.mark.parametrize("noise", [VLLM, SGLANG])
def test_a_seeds_noise_saves_what_narrows_own_saves(noise: Noise) -> None:
    own = len(coded([OWN_NOISE] * 12, ALL))
    right = len(coded([noise] * 12, ALL))
    wrong = len(coded([noise] * 12, ALL, [replace(noise, start=noise.start + 1)] * 12))
    assert right < 1.15 * own
    assert wrong > 1.5 * right


def test_a_family_said_again_costs_a_few_bits_in_all() -> None:
    many = len(coded([VLLM] * 30, ALL)) - len(coded([VLLM], ALL))
    own = len(coded([OWN_NOISE] * 30, LinkOptions())) - len(coded([OWN_NOISE], LinkOptions()))
    assert abs(many - own) < 0.1 * own


def test_a_link_without_the_option_is_what_it_was() -> None:
    assert LinkOptions().to_wire() == LinkOptions.from_wire({}).to_wire()
    assert "noise" not in LinkOptions().to_wire()
    assert ALL.to_wire()["noise"] == 4
    assert coded([OWN_NOISE], LinkOptions()) == coded([OWN_NOISE], LinkOptions(noise=2))
    events = read(coded([VLLM], LinkOptions()), 1, LinkOptions())
    assert opened(events) == [Opened(Coding.PLAIN)]


def test_a_link_up_to_three_does_not_know_the_fourth() -> None:
    some = LinkOptions(noise=3)
    events = read(coded([VLLM, SGLANG], some), 2, some)
    assert opened(events) == [Opened(Coding.COUPLED, VLLM), Opened(Coding.PLAIN)]


@pytest.mark.parametrize("value", [0, 5, -1, True])
def test_other_numbers_are_no_option(value: int) -> None:
    with pytest.raises(InputError):
        LinkOptions.from_wire({"noise": value})


def test_starts_out_of_range_are_refused_at_both_ends() -> None:
    for start in (-1, 1 << 30):
        encoder = LinkEncoder(TinyModel(), ALL)
        encoder.request(specs(1)[0])
        with pytest.raises(InputError):
            encoder.open(0, Coding.COUPLED, Noise(NoiseFamily.SEED_VLLM, start))
        encoder = LinkEncoder(TinyModel(), ALL)
        encoder.request(specs(1)[0])
        encoder.open(0, Coding.COUPLED, VLLM)
        encoder._sources[0].noise = Noise(NoiseFamily.SEED_VLLM, start)  # a lying encoder
        encoder.put(0, Finished(Finish.STOP))
        with pytest.raises((LinkError, InputError)):
            read(encoder.poll(1000.0), 1, ALL)
