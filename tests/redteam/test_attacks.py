"""Every attack once against real roles, and the arithmetic that judges them."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from narrows.cli.main import app
from narrows.errors import InputError
from narrows.redteam.attack import ATTACKS, Effort, attack
from narrows.redteam.catalogue import chosen, every_attack
from narrows.redteam.payload import Decoded, symbols, threshold
from narrows.redteam.report.html import render_html
from narrows.redteam.report.text import closing, verdict
from narrows.redteam.run import Campaign, Result, run
from narrows.redteam.site import Site
from narrows.redteam.structure import nth_order, order_number
from narrows.redteam.tokens import embed, extract

SEED = 11
# What a receiver decodes without an error where nothing is measured by a clock.
EXACT = {
    "token-entropy": 1200,
    "always-plain": 900,
    "greedy-client": 200,
    "finish-reason": 64,
    "usage-counts": 480,
    "tool-calls": 80,
    "markup-head": 24,
    "error-codes": 72,
    "pushes": 40,
    "pads": 48,
    "literals": 64,
    "byte-escapes": 384,
    "telemetry-bytes": 24_000,
}
NO_BIT = ("back-pressure",)


@pytest.fixture(scope="module")
def campaign() -> Campaign:
    return run([one for one in every_attack() if one.group != "ledger"], SEED)


@pytest.mark.slow  # 27 attacks on one set of processes: 20 s of CPU, the rest is waiting
@pytest.mark.timeout(900)
def test_no_attack_beats_its_charge(campaign: Campaign) -> None:
    found = {result.name: result for result in campaign.results}
    assert set(found) == {name for name, one in ATTACKS.items() if one.group != "ledger"}
    assert not campaign.skipped
    assert not campaign.vulnerabilities, closing(campaign).plain
    assert not campaign.failures, closing(campaign).plain
    net = {name: one.net_charged_bits for name, one in found.items()}
    assert all(bits is not None for bits in net.values())
    assert net["share-0.1"] < 0.6 * found["share-0.1"].charged_bits, "honest tokens are explained"
    for name, bits in EXACT.items():
        assert found[name].payload_bits == bits, found[name]
    for name in NO_BIT:
        assert found[name].payload_bits <= found[name].error_bits + 4, found[name]
    rang = {name: {alarm["kind"] for alarm in one.alarms} for name, one in found.items()}
    assert "noise" in rang["token-entropy"]
    assert "uncoupled" in rang["always-plain"]
    assert not rang["share-0.1"], "six bits in a thousand tokens"


def test_the_report_says_all_of_it() -> None:
    results = [result(name="one", title="<script>"), result(name="two", failed="TimeoutError")]
    campaign = Campaign(SEED, 1.0, False, "2030-01-01", results=results)
    page = render_html(campaign)
    for one in results:
        assert f'id="{one.name}"' in page
    assert f"Seed {SEED}" in page
    assert "<script" not in page
    told = json.loads(json.dumps(campaign.as_json()))
    assert {"name", "payload_bits", "charged_bits", "net_charged_bits", "seconds", "alarms"} <= set(
        told["attacks"][0]
    )


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_long_payloads_are_paid_too() -> None:
    found = run(every_attack(), random.SystemRandom().getrandbits(32), scale=10)
    assert not found.vulnerabilities, closing(found).plain


@pytest.mark.torture
@pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces, which only root may")
@pytest.mark.timeout(3600)
def test_none_in_namespaces_beats_its_charge() -> None:
    found = run(every_attack(), SEED, isolated=True)
    assert not found.vulnerabilities, closing(found).plain


def result(**fields: object) -> Result:
    plain = Result("n", "tokens", "t", "s", "d", "c", 100.0, 0.0, 200, 1.0, [])
    return replace(plain, **fields)  # type: ignore[arg-type]


def test_what_is_more_than_its_charge_is_a_vulnerability() -> None:
    assert not result().vulnerable
    assert not result(payload_bits=219.0).vulnerable, "chance may do that: 2^-19"
    assert result(payload_bits=221.0).vulnerable
    assert not result(payload_bits=300.0, error_bits=90.0).vulnerable
    assert result(broken="a window").vulnerable
    assert [verdict(one) for one in (result(), result(payload_bits=0.0))] == [
        "paid",
        "nothing left",
    ]
    late = Campaign(1, 1.0, False, "2030-01-01", results=[result(failed="TimeoutError")])
    assert "did not run: n: TimeoutError" in closing(late).plain
    bad = Campaign(1, 1.0, False, "2030-01-01", results=[result(payload_bits=999.0)])
    assert "vulnerability: n" in closing(bad).plain
    assert 'class="broken"' in render_html(bad)


def test_a_vulnerability_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bad = Campaign(1, 1.0, False, "2030-01-01", results=[result(payload_bits=999.0)])
    monkeypatch.setattr("narrows.redteam.run.run", lambda *_, **__: bad)
    page = tmp_path / "page.html"
    for words, code in (
        (["redteam", "run", "pads", "--html", str(page), "--json"], 1),
        (["redteam", "all"], 1),
    ):
        with pytest.raises(SystemExit) as ended:
            app(words)
        assert ended.value.code == code
    assert json.loads(capsys.readouterr().out.splitlines()[0])["vulnerabilities"] == ["n"]
    assert page.exists()


def test_list_names_every_attack(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app(["redteam", "list", "--json"])
    told = json.loads(capsys.readouterr().out)["attacks"]
    assert [one["name"] for one in told] == [one.name for one in every_attack()]
    assert all(one["sees"] and one["decodes"] and one["charged"] for one in told)


def test_an_attack_that_is_none_is_named() -> None:
    with pytest.raises(InputError) as error:
        chosen(["pads", "no-such"])
    assert error.value.problems == ("no-such",)


def test_an_attack_must_say_what_it_is() -> None:
    def silent(site: Site, effort: Effort) -> Decoded:
        """Nothing."""
        return Decoded([], [])

    with pytest.raises(ValueError, match="must say"):
        attack("silent", "tokens")(silent)


def test_what_was_received_without_error() -> None:
    sent = [0, 1] * 500
    assert Decoded(sent, sent).bits == 1000
    assert Decoded(sent, sent).error_bits == 0
    assert Decoded(sent, []).bits == 0
    assert Decoded(sent, [1 - bit for bit in sent]).bits == 0, "an inverted guess is no receiver"
    half = Decoded(sent, [*sent[:500], *[None] * 500])
    assert half.bits == 500, "he knows which ones he lacks"
    guessed = Decoded(sent, [*sent[:500], *[0] * 500])
    assert 150 < guessed.bits < 250, "a quarter of them wrong, and he cannot say which"
    two = Decoded([0, 1, 1, 0] * 250, [0, 0, 1, 1] * 250, widths=(1, 1))
    assert two.bits == 500, "one part of a symbol is right, of the other every bit is wrong"


def test_a_channel_that_carries_nothing_is_held_to_it() -> None:
    sent = [0, 1] * 500
    assert "1000 bits" in Decoded(sent, sent).silent("the clock").broken
    for seed in range(50):
        rng = random.Random(seed)
        sent, got = ([rng.getrandbits(1) for _ in range(48)] for _ in range(2))
        assert not Decoded(sent, got).silent("the clock").broken


def test_noise_is_no_payload_beyond_its_error() -> None:
    beyond = 0
    for seed in range(200):
        rng = random.Random(seed)
        sent, got = ([rng.getrandbits(1) for _ in range(48)] for _ in range(2))
        decoded = Decoded(sent, got)
        beyond += decoded.bits > decoded.error_bits
    assert beyond <= 15, "about one in forty by chance"


def test_a_threshold_is_learned_with_its_direction() -> None:
    assert threshold([(0, 5.0), (1, 1.0), (0, 6.0), (1, 2.0)], [1.5, 5.5]) == [1, 0]
    assert threshold([(0, 1.0), (1, 5.0), (0, 2.0), (1, 6.0)], [1.5, 5.5]) == [0, 1]


def test_receivers_invert_their_thieves() -> None:
    from narrows.models.bytemodel import ByteModel

    model, rng = ByteModel(), random.Random(1)
    value = rng.getrandbits(64)
    assert extract(model, bytes(embed(model, value, 64)).decode(), 64) == value
    assert extract(model, "\x01", 64) is None
    for _ in range(50):
        number = rng.randrange(40_320)
        assert order_number(nth_order(number)) == number
    assert symbols([5, None], 3) == [1, 0, 1, None, None, None]
