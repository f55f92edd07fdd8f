"""Random traffic through the real encoder, for those who must read it: models, answers, limits,
times and events of all kinds, decided by a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from coding.link_fakes import TinyModel
from narrows.coding.events import (
    OWN_NOISE,
    AnswerSpec,
    Channel,
    Coding,
    Event,
    Failed,
    Failure,
    Finish,
    Finished,
    Noise,
    NoiseFamily,
    Switch,
    Text,
    Tokens,
    Usage,
)
from narrows.coding.link.encoder import LinkEncoder
from narrows.coding.link.options import LinkLimits, LinkOptions
from narrows.coding.tokens.sampler import sample

NOISES = (1, 4, 1, 3, 2)


@dataclass
class Honest:
    options: LinkOptions
    specs: list[AnswerSpec]
    data: bytes


def honest(seed: int) -> Honest:
    rnd = random.Random(seed)
    options = LinkOptions(
        max_hold_ms=rnd.choice([0, 30, 200, 2000]),
        round_hold_ms=rnd.choice([0, 20, 40, 200]),
        text_hold_ms=rnd.choice([0, 25]),
        noise=NOISES[seed % len(NOISES)],
        limits=LinkLimits(
            max_open=rnd.choice([1, 3, 1024]),
            max_skip=rnd.choice([0, 1, 65536]),
            max_run=rnd.choice([1, 2, 3, 16, 256]),
            max_switches=rnd.choice([8, 1024]),
            text_base_bytes=rnd.choice([1, 10, 4096]),
            text_bytes_per_token=rnd.choice([0, 1, 64]),
            steps_per_byte=rnd.choice([16, 1024]),
            steps_saved=rnd.choice([1024, 32768]),
            check_bytes=rnd.choice([64, 97, 4096]),
        ),
    )
    model = TinyModel()
    specs = [_spec(rnd, model) for _ in range(rnd.randint(1, 7))]
    encoder = LinkEncoder(model, options)
    for spec in specs:
        encoder.request(spec)
    answers = {n: _events(rnd, model, spec) for n, spec in enumerate(specs)}
    waiting = list(answers)
    rnd.shuffle(waiting)
    lively: list[int] = []
    now_ms, sent = 0.0, b""
    while waiting or lively:
        if waiting and (not lively or rnd.random() < 0.2):
            lively.append(waiting.pop())
            noise = _noise(rnd, options.noise)
            encoder.open(lively[-1], answers[lively[-1]][0], noise)
        number = rnd.choice(lively)
        for _ in range(rnd.choice([1, 1, 1, 5])):
            if answers[number][1]:
                event = answers[number][1].pop(0)
                if encoder.is_open(number):  # else it passed a limit and was ended
                    encoder.put(number, event)
        if not answers[number][1]:
            lively.remove(number)
        if rnd.random() < 0.6:
            now_ms += rnd.choice([0, 1, 20, 30, 100, 500])
            sent += encoder.poll(now_ms)
    due: float | None = now_ms
    while due is not None:
        now_ms = max(now_ms, due)
        sent += encoder.poll(now_ms)
        due = encoder.next_poll_ms(now_ms)
    return Honest(options, specs, sent)


def _noise(rnd: random.Random, highest: int) -> Noise:
    if highest == 1:
        return OWN_NOISE
    start = rnd.choice([0, 1, 1, 9, 400, (1 << 30) - 1])
    return rnd.choice([OWN_NOISE, *(Noise(family, start) for family in NoiseFamily)])


def _spec(rnd: random.Random, model: TinyModel) -> AnswerSpec:
    return AnswerSpec(
        prompt=tuple(rnd.randrange(260) for _ in range(rnd.choice([0, 1, 9]))),
        max_tokens=rnd.choice([1, 5, 30, 1000]),
        temperature=rnd.choice([0, 30_000, 45_874, 65_536, 65_536, 131_072]),
        noise_key=rnd.randbytes(32),
        resume=tuple(rnd.randrange(260) for _ in range(rnd.choice([0, 0, 0, 3, 8]))),
    )


def _events(rnd: random.Random, model: TinyModel, spec: AnswerSpec) -> tuple[Coding, list[Event]]:
    coding = rnd.choice(list(Coding))
    events: list[Event] = []
    tokens = [*spec.prompt, *spec.resume] or [model.tokenizer.eos]
    for position in range(len(spec.resume), len(spec.resume) + rnd.choice([0, 3, 12, 40])):
        if rnd.random() < 0.12:
            events.append(Switch(rnd.choice(list(Channel))))
        elif coding is Coding.TEXT:
            words = [b" the", b"a", b"ing of", b"\x07", b"  ", "ü".encode(), b"\xc3", b"zz z"]
            events.append(Text(rnd.choice(words)))
        else:
            row = model._row(tokens)
            token = sample(row, spec.temperature, 65536, spec.noise_key, position)
            token = rnd.choice([token, token, token, rnd.randrange(model.vocab_size)])
            token = model.tokenizer.eos if rnd.random() < 0.03 else token
            tokens.append(token)
            events.append(Tokens((token,)))
    if rnd.random() < 0.6:
        events.append(Usage(rnd.choice([0, 5, 9, 400]), rnd.choice([0, 3, 12, 13, 41, 70_000])))
    failed = rnd.random() < 0.2
    end = Failed(rnd.choice(list(Failure))) if failed else Finished(rnd.choice(list(Finish)))
    return coding, [*events, end]
