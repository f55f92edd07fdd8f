"""Every published forecast case, as a scenario through the whole model.

The numbers are the cases of docs/forecast.md, "Published cases"; each test names its source.
Where a source is wrong or ambiguous the test holds what the arithmetic gives, and says so.
"""

from __future__ import annotations

import pytest

from narrows.plan import equations as eq
from narrows.plan.analysis import analyse, as_json
from narrows.plan.scenario import build
from narrows.plan.units import MONTH_DAYS, YEAR_DAYS
from narrows.tomlfile import parse_toml

EXACT = {"busy_day": "1", "lifetime": "1 day"}


def report(**settings: str) -> dict:
    """The JSON report of a scenario given as flags; days without scatter unless said."""
    return as_json(analyse(build(None, None, {**EXACT, **settings}), draws=100))


def theft_days(coding: str, /, **settings: str) -> float:
    return report(**settings)["days_to_exfiltrate"][coding]["p50"]


@pytest.mark.parametrize(
    ("case", "requests", "weights", "months"),
    [
        ("1, decimal", "1e7/month", "0.64 TB", 500.0),
        ("1, binary", "1e7/month", "0.64 TiB", 549.8),
        ("2, decimal", "1e9/month", "0.64 TB", 5.0),
        ("2, binary", "1e9/month", "0.64 TiB", 5.498),
    ],
)
def test_conversations_of_128_bytes(case: str, requests: str, weights: str, months: float) -> None:
    """Cases 1 and 2 (comment wCPptLi3BhcWW5thA on LessWrong rf66R4YsrCHgWx9RG): published 550
    and 5.5 months. That is TiB of weights with 0.64 "TB"; decimal TB give 500 and 5.0."""
    days = theft_days(
        "raw", requests_per_day=requests, bytes_per_request="128 B", weights=weights, coding="raw"
    )
    assert days / MONTH_DAYS == pytest.approx(months, rel=1e-3), case


def test_published_months_are_binary_not_decimal() -> None:
    """The published roundings fit only the binary reading."""
    assert round(0.64 * 2**40 / (1e7 * 128), -1) == 550
    assert round(0.64e12 / (1e7 * 128), -1) == 500


@pytest.mark.parametrize(
    ("case", "cap", "weights", "days"),
    [
        # 3, 4: LessWrong GcbkprYPCjXdysLq4.
        ("3", "100 GB/day", "1 TB", 10.0),
        ("4", "1 TB/day", "1 TB", 1.0),
        # 7, 8: adamkarvonen.github.io. 8 says "millions of days"; it is 20,000.
        ("7", "1 GB/day", "2 TB", 2_000.0),
        ("8", "100 MB/day", "2 TB", 20_000.0),
        # 9: victorqueiroz.dev, "Egress as Defense": 110 min (108) and 18 h.
        ("9a", "1 Gbit/s", "810 GB", 108 / 1440),
        ("9b", "100 Mbit/s", "810 GB", 18 / 24),
        # 10: luiscosio/muInference: 14 d, 324 d, 2.2 y.
        ("10a", "5 KB/s", "6 GB", 13.9),
        ("10b", "5 KB/s", "140 GB", 324.1),
        ("10c", "5 KB/s", "350 GB", 810.2),
        # 12: 2.2 h, 11.1 h, 44.4 h.
        ("12a", "1 Gbit/s", "1 TB", 2.222 / 24),
        ("12b", "1 Gbit/s", "5 TB", 11.11 / 24),
        ("12c", "1 Gbit/s", "20 TB", 44.44 / 24),
    ],
)
def test_cap_alone(case: str, cap: str, weights: str, days: float) -> None:
    """A fixed cap: every unverified coding takes weights ÷ cap."""
    times = report(cap=cap, weights=weights)["days_to_exfiltrate"]
    for coding in ("raw", "compressed", "coupled"):
        assert times[coding]["p50"] == pytest.approx(days, rel=5e-3), case


def test_case_8_is_not_millions_of_days() -> None:
    assert theft_days("raw", cap="100 MB/day", weights="2 TB") < 100_000
    assert pytest.approx(2.2, abs=0.05) == 810.2 / YEAR_DAYS  # case 10c in years


@pytest.mark.parametrize(("ratio", "days"), [(70.0, 70.0), (100.0, 100.0)])
def test_compressed_text(ratio: float, days: float) -> None:
    """Case 5 (news summary of LessWrong GcbkprYPCjXdysLq4): 1 TB of text a day and a model of
    1 TB, compressed: "over 70 days" needs a ratio of at least 70."""
    times = report(
        text_per_day="1 TB/day",
        weights="1 TB",
        raw="35 bits/token",
        compressed=f"{35 / ratio} bits/token",
    )["days_to_exfiltrate"]
    assert times["raw"]["p50"] == pytest.approx(1.0)
    assert times["compressed"]["p50"] == pytest.approx(days)


def test_verified_share() -> None:
    """Case 6 (arXiv 2511.02620): under 0.5 % extractable is over 200 times slower, 1 TB/day
    becomes 5 GB/day."""
    scenario = {"cap": "1 TB/day", "weights": "1 TB", "coding": "raw", "extractable": "0.5%"}
    assert theft_days("raw", **scenario) == pytest.approx(1.0)
    assert theft_days("verified", **scenario) == pytest.approx(200.0)


def test_lines_of_code() -> None:
    """Case 11 (SL5 Novel Recommendations, November 2025): 3.4 TB of weights, 10^9 lines of 50
    characters: 50 GB, 68 to 1."""
    result = report(requests_per_day="1e9/day", bytes_per_request="50 B", weights="3.4 TB")
    assert result["lifetime_outflow_bytes"]["raw"]["p50"] == pytest.approx(50e9)
    assert 1 / result["outflow_to_weights"]["raw"]["p50"] == pytest.approx(68.0)


@pytest.mark.parametrize(("bits", "per_day", "days"), [("16.98", 357e9, 1.88), ("2", 42e9, 16.0)])
def test_deepseek(bits: str, per_day: float, days: float) -> None:
    """Case 13 (deepseek-ai/open-infra-index, day 6): 168·10^9 output tokens/day, 671 GB."""
    result = report(
        tokens_per_day="168B tokens/day",
        parameters="671B",
        bytes_per_parameter="1",
        compressed=f"{bits} bits/token",
    )
    assert result["weights_bytes"] == 671e9
    assert result["cap_bytes_per_day"] == pytest.approx(per_day, rel=2e-3)
    assert result["days_to_exfiltrate"]["compressed"]["p50"] == pytest.approx(days, rel=2e-3)


def test_deepseek_preset_has_the_published_figures() -> None:
    result = as_json(analyse(build(None, "deepseek-v3", {**EXACT}), draws=1000))
    assert result["weights_bytes"] == 671e9
    assert result["lifetime_outflow_bytes"]["raw"]["p50"] == pytest.approx(357e9, rel=2e-3)


@pytest.mark.parametrize("compression", [16.0, 100.0])
def test_steganography_through_accounts(compression: float) -> None:
    """Case 14 (arXiv 2601.01296): days = size ÷ ratio ÷ (egress per account × accounts ×
    steganography share); the cap is far wider and does not matter."""
    days = theft_days(
        "raw",
        weights="1 TB",
        weight_compression=str(compression),
        accounts="100",
        bytes_per_account="100 MB/day",
        steganography_share="5%",
        cap="1 PB/day",
    )
    assert days == pytest.approx(1e12 / compression / (100e6 * 100 * 0.05))
    assert 10 <= days <= 1_000  # "months to days"


@pytest.mark.parametrize(("bits", "tokens"), [(1.0, 16.0), (2.0, 8.0), (16.0, 1.0)])
def test_break_even(bits: float, tokens: float) -> None:
    """Case 15: 16/b tokens per parameter at 16-bit weights and b bits/token; and there the
    answers weigh exactly what the weights do."""
    assert eq.break_even_tokens_per_parameter(16.0, bits) == tokens
    result = report(
        parameters="1B", tokens_per_day=f"{tokens}B tokens/day", compressed=f"{bits} bits/token"
    )
    assert result["break_even_tokens_per_parameter"]["compressed"]["p50"] == pytest.approx(tokens)
    assert result["outflow_to_weights"]["compressed"]["p50"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("preset", "size_bytes", "tokens"),
    [
        ("chinchilla-70b", 140e9, 1.4e12),
        ("llama-3.1-8b", 16e9, 15e12),
        ("llama-3.1-70b", 140e9, 15e12),
        ("llama-3.1-405b", 810e9, 15.6e12),
        ("deepseek-v3", 671e9, 14.8e12),
        ("qwen3-235b-a22b", 470e9, 36e12),
    ],
)
def test_presets(preset: str, size_bytes: float, tokens: float) -> None:
    result = as_json(analyse(build(None, preset), draws=2_000))
    assert result["weights_bytes"] == pytest.approx(size_bytes)
    assert result["training_tokens"]["p50"] == pytest.approx(tokens)


def test_file_and_flags_agree() -> None:
    """A case written as a file gives what it gives as flags."""
    text = '[model]\nweights = "2 TB"\n[demand]\nlifetime = "1 day"\nbusy_day = 1\n'
    text += '[defender]\ncap = "1 GB/day"\n'
    from_file = as_json(analyse(build(parse_toml(text, "case.toml")), draws=100))
    from_flags = report(weights="2 TB", cap="1 GB/day")
    assert from_file["days_to_exfiltrate"] == from_flags["days_to_exfiltrate"]
