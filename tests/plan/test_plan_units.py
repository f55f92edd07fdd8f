"""Quantities: what they mean, what is refused, and that nothing else ever escapes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrows.plan import units
from narrows.plan.fields import FIELDS
from narrows.plan.units import UnitError, parse
from narrows.plan.values import read_value

ALL = (
    units.BYTES,
    units.BYTES_PER_DAY,
    units.PARAMETERS,
    units.TOKENS,
    units.TOKENS_PER_DAY,
    units.BITS_PER_TOKEN,
    units.BYTES_PER_PARAMETER,
    units.SHARE,
    units.RATIO,
    units.COUNT,
    units.REQUESTS_PER_DAY,
    units.DURATION,
    units.MONEY_PER_DAY,
    units.PRICE,
    units.GROWTH,
)


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("1.2 TB/day", units.BYTES_PER_DAY, 1.2e12),
        ("1 Gbit/s", units.BYTES_PER_DAY, 1e9 / 8 * 86_400),
        ("100 Mbps", units.BYTES_PER_DAY, 100e6 / 8 * 86_400),
        ("5 KB/s", units.BYTES_PER_DAY, 5_000 * 86_400),
        ("7 GB per week", units.BYTES_PER_DAY, 1e9),
        ("0.64 TiB", units.BYTES, 0.64 * 2**40),
        ("128B", units.BYTES, 128),
        ("671B", units.PARAMETERS, 671e9),
        ("671B parameters", units.PARAMETERS, 671e9),
        ("15.6T tokens", units.TOKENS, 15.6e12),
        ("1e9", units.TOKENS, 1e9),
        ("1_000", units.COUNT, 1_000),
        ("16.98 bits/token", units.BITS_PER_TOKEN, 16.98),
        ("4 bytes/token", units.BITS_PER_TOKEN, 32),
        ("16 bits", units.BYTES_PER_PARAMETER, 2),
        ("16 bits/parameter", units.BYTES_PER_PARAMETER, 2),
        ("0.5%", units.SHARE, 0.005),
        ("16x", units.RATIO, 16),
        ("16 ×", units.RATIO, 16),
        ("10M conversations/month", units.REQUESTS_PER_DAY, 1e7 / 30.4375),
        ("2 years", units.DURATION, 730.5),
        ("18 months", units.DURATION, 18 * 30.4375),
        ("$365.25M/year", units.MONEY_PER_DAY, 1e6),
        ("10 USD/day", units.MONEY_PER_DAY, 10),
        ("$15/Mtoken", units.PRICE, 15e-6),
        ("$15 per 1M tokens", units.PRICE, 15e-6),
        ("3x/year", units.GROWTH, 3),
        ("100%/year", units.GROWTH, 2),
        ("10%/month", units.GROWTH, 1.1**12),
    ],
)
def test_meaning(text: str, dimension: units.Dimension, value: float) -> None:
    assert parse(text, dimension) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "dimension", "hint"),
    [
        ("1 TB", units.BYTES_PER_DAY, "need one '/'"),
        ("1 gb", units.BYTES, "perhaps 'GB'"),
        ("10 Gb/s", units.BYTES_PER_DAY, "perhaps 'Gbit'$"),
        ("10 gb/s", units.BYTES_PER_DAY, r"'GB' \(bytes\) or 'Gbit' \(bits\)$"),
        ("5 kb", units.BYTES, "perhaps 'kbit'$"),
        ("5 Mib", units.BYTES, "perhaps 'Mibit'$"),
        ("5 b/token", units.BITS_PER_TOKEN, "perhaps 'bit'$"),
        ("810", units.BYTES, "missing unit"),
        ("1,000", units.COUNT, "thousands"),
        ("1 TB/token", units.BYTES_PER_DAY, "bytes/day"),
        ("1 TB/day/day", units.BYTES_PER_DAY, "need one '/'"),
        ("many", units.BYTES, "begin with a number"),
        ("", units.BYTES, "begin with a number"),
        ("1e999 GB", units.BYTES, "finite"),
        ("nan", units.RATIO, "begin with a number"),
        ("inf", units.RATIO, "begin with a number"),
        ("2 years", units.TOKENS, "tokens"),
        ("5%/day", units.SHARE, "take no '/'"),
        ("$15/0 tokens", units.PRICE, "above zero"),
        ("-100%/year", units.GROWTH, "above zero"),
        ("9" * 500, units.COUNT, "characters"),
    ],
)
def test_refused_with_the_reason(text: str, dimension: units.Dimension, hint: str) -> None:
    with pytest.raises(UnitError, match=hint):
        parse(text, dimension)


@given(st.text(max_size=150), st.sampled_from(ALL))
def test_any_text_is_a_finite_number_or_a_unit_error(text: str, dimension: units.Dimension) -> None:
    try:
        value = parse(text, dimension)
    except UnitError:
        return
    assert math.isfinite(value)


@given(
    st.from_regex(
        r"[+-]?[0-9_.eE]{1,12} ?[a-zA-Z%$×/ ]{0,12}(\.\.[0-9a-zA-Z/ ]{0,12})?", fullmatch=True
    ),
    st.sampled_from(sorted(FIELDS)),
)
def test_any_value_is_in_bounds_or_refused(text: str, path: str) -> None:
    """Whatever a scenario writes, what comes out obeys the field's bounds in every draw."""
    field = FIELDS[path]
    try:
        value = read_value(text, field)
    except UnitError:
        return
    draws = value.draw(path, 1, 50) if not value.fixed else value.p5
    for one in draws if not value.fixed else [draws]:
        assert field.lower <= one <= field.upper
        assert math.isfinite(one)
        assert one > field.lower or not field.above


@given(
    st.one_of(
        st.integers(),
        st.floats(),
        st.booleans(),
        st.none(),
        st.lists(st.integers(), max_size=3),
        st.dictionaries(
            st.sampled_from(["p5", "p95", "distribution", "x"]), st.integers() | st.text(max_size=9)
        ),
    ),
    st.sampled_from(sorted(FIELDS)),
)
def test_any_toml_value_is_read_or_refused(raw: object, path: str) -> None:
    try:
        value = read_value(raw, FIELDS[path])
    except UnitError:
        return
    assert value.p5 <= value.p95


def test_ranges_share_their_unit() -> None:
    field = FIELDS["coding.compressed"]
    both = read_value("1.35 bits/token..3.3 bits/token", field)
    assert read_value("1.35..3.3 bits/token", field) == both
    share = read_value("5..30%", FIELDS["demand.hidden_share"])
    assert (share.p5, share.p95) == pytest.approx((0.05, 0.3))
    money = read_value("$10..20/Mtoken", FIELDS["demand.price"])
    assert (money.p5, money.p95) == pytest.approx((1e-5, 2e-5))
    rate = read_value("100 GB..1 TB/day", FIELDS["defender.cap"])
    assert (rate.p5, rate.p95) == pytest.approx((1e11, 1e12))
    counts = read_value("500M..2B", FIELDS["demand.users"])
    assert (counts.p5, counts.p95) == pytest.approx((5e8, 2e9))


@pytest.mark.parametrize(
    ("raw", "path", "hint"),
    [
        ("120%", "demand.hidden_share", "over 100 %"),
        (50, "demand.hidden_share", "write '50%'"),
        ("-3 GB", "model.weights", "negative"),
        ("0 GB", "model.weights", "too small"),
        ("0%..10%", "demand.hidden_share", "cannot begin at 0"),
        ("30%..10%", "demand.hidden_share", "swap"),
        ("1..2..3", "attacker.weight_compression", "once"),
        ({"p5": 1}, "attacker.weight_compression", "p5, p95"),
        ({"p5": 1, "p95": 2, "distribution": "weird"}, "attacker.weight_compression", "one of"),
        (810, "model.weights", "needs a unit"),
        (True, "attacker.weight_compression", "number or text"),
        (float("nan"), "attacker.weight_compression", "finite"),
        (10**400, "attacker.weight_compression", "finite"),
    ],
)
def test_bad_values_say_what_is_wrong(raw: object, path: str, hint: str) -> None:
    with pytest.raises(UnitError, match=hint):
        read_value(raw, FIELDS[path])
