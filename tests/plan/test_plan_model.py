"""The equations and the draws: closed forms against numeric ones, limits, determinism."""

from __future__ import annotations

import json
import math
from statistics import NormalDist, correlation

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.errors import InputError
from narrows.plan import equations as eq
from narrows.plan.analysis import analyse, as_json
from narrows.plan.budget import as_toml, lineage_name, recommend
from narrows.plan.distribution import KINDS, Distribution
from narrows.plan.drivers import find, spearman
from narrows.plan.fields import DEMAND_KEYS
from narrows.plan.measures import waterfall
from narrows.plan.scenario import build, load, preset_names
from narrows.plan.simulate import CODINGS, evaluate, percentiles, simulate, theft_probability

SMALL = {"parameters": "1B", "tokens_per_day": "1B", "busy_day": "1"}


def made(**flags: str):
    """A small scenario; a demand among ``flags`` takes the place of its own."""
    base = dict(SMALL)
    if {f"demand.{key}" for key in flags} & DEMAND_KEYS:
        del base["tokens_per_day"]
    return build(None, None, {**base, **flags})


@pytest.mark.parametrize("curve", ["exponential", "linear", "logistic"])
@pytest.mark.parametrize("per_year", [1.2, 3.0, 10.0])
def test_growth_days_is_the_integral_of_growth(curve: str, per_year: float) -> None:
    days = np.linspace(0.0, 900.0, 20_001)
    rate = np.asarray(eq.growth_at(days, per_year, curve, 12.0))
    integral = float(np.sum((rate[1:] + rate[:-1]) / 2 * np.diff(days)))
    assert eq.growth_days(900.0, per_year, curve, 12.0) == pytest.approx(integral, rel=1e-6)
    assert rate[0] == pytest.approx(1.0)


@pytest.mark.parametrize("curve", ["exponential", "logistic"])
def test_growth_begins_at_its_yearly_factor(curve: str) -> None:
    slope = (eq.growth_at(0.01, 3.0, curve, 1e6) - 1) / 0.01 * 365.25
    assert slope == pytest.approx(math.log(3.0), rel=1e-3)


def test_logistic_growth_stays_under_its_ceiling() -> None:
    assert eq.growth_at(1e5, 5.0, "logistic", 8.0) == pytest.approx(8.0)
    assert eq.growth_days(365.25, 1.0, "exponential", 1.0) == pytest.approx(365.25)


def test_busy_day_is_a_lognormal_with_mean_one() -> None:
    """Mean and quantiles against draws of that lognormal."""
    sigma = math.log(1.5) / NormalDist().inv_cdf(0.95)
    days = np.exp(np.random.default_rng(4).standard_normal(400_000) * sigma - sigma**2 / 2)
    assert days.mean() == pytest.approx(1.0, rel=0.01)
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        assert eq.busy_day_factor(1.5, name) == pytest.approx(np.quantile(days, share), rel=0.01)


@settings(max_examples=60)
@given(
    st.floats(1e3, 1e12),
    st.floats(1.0, 1e9),
    st.floats(0.0, 1e12),
    st.floats(0.001, 100.0),
)
def test_theft_moves_exactly_the_target(
    target: float, quiet: float, rush: float, response: float
) -> None:
    """Whatever the split into quiet days and one rush, the bytes add up to the target."""
    days = float(eq.theft_days(target, quiet, rush, response))
    if rush >= target:
        assert days == pytest.approx(response * target / rush)
        assert days <= response * (1 + 1e-9)
    elif rush > 0:
        assert (days - response) * quiet + rush == pytest.approx(target, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_distributions_have_their_percentiles(kind: str) -> None:
    value = Distribution(2.0, 8.0, kind)
    draws = value.draw("x", 7, 200_000)
    low, high = np.quantile(draws, [0.05, 0.95])
    assert low == pytest.approx(2.0, rel=0.02)
    assert high == pytest.approx(8.0, rel=0.02)
    assert value.quantile(0.05) == pytest.approx(2.0)
    assert value.median == pytest.approx(float(np.median(draws)), rel=0.02)


def test_an_input_keeps_its_draws_when_others_come() -> None:
    alone = simulate(made(compressed="1..3 bits/token"), 100, 3)
    joined = simulate(made(compressed="1..3 bits/token", weight_compression="1..9"), 100, 3)
    path = "coding.compressed"
    assert np.array_equal(alone.inputs[path], joined.inputs[path])


@pytest.mark.parametrize("name", preset_names())
def test_same_seed_same_report(name: str) -> None:
    scenario = load(None, name)
    first, again = (json.dumps(as_json(analyse(scenario, 3_000, 5))) for _ in range(2))
    assert first == again
    assert json.dumps(as_json(analyse(scenario, 3_000, 6))) != first


def test_percentiles_are_nearest_rank_and_know_eternity() -> None:
    assert percentiles(np.array([3.0, 1.0, 2.0]), (0.05, 0.5, 0.95)) == (1.0, 2.0, 3.0)
    assert percentiles(np.array([1.0, math.inf, math.inf])) == (1.0, math.inf, math.inf)
    assert percentiles(4.0) == (4.0, 4.0, 4.0)


def test_nothing_leaves_when_all_use_is_internal() -> None:
    report = as_json(analyse(made(internal_share="100%"), 10))
    assert report["lifetime_outflow_bytes"]["raw"]["p50"] == 0.0
    assert report["days_to_exfiltrate"]["raw"]["p50"] is None
    assert report["theft_probability"]["raw"] == 0.0
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize("bad", [0, -1, 5_000_001])
def test_draws_are_bounded(bad: int) -> None:
    with pytest.raises(InputError, match="draws"):
        simulate(made(), bad)


def test_every_measure_helps_or_is_neutral() -> None:
    """Compressing, coupling, verifying, watching never shorten a theft under equal service."""
    for name in preset_names():
        result = simulate(load(None, name, {"usable_share": "20%..60%"}), 2_000)
        days = [percentiles(result.outcomes[c].days)[1] for c in CODINGS[:3]]
        assert days == sorted(days)
        steps = waterfall(result)
        assert all(step.factor >= 1.0 for step in steps), name
        assert steps[-1].name == "watch and respond"
        assert math.prod(step.factor for step in steps) == pytest.approx(
            steps[-1].days / steps[0].days
        )


def test_verification_never_leaves_more_than_the_carrier() -> None:
    result = simulate(made(extractable="50%", coding="coupled", verification="true"), 1_000)
    verified, carrier = result.outcomes["verified"], result.outcomes["coupled"]
    assert np.all(verified.outflow <= carrier.outflow * (1 + 1e-12))


def test_windows_bind_together() -> None:
    text = 'weights = "10 TB"\n[demand]\nlifetime = "1 year"\n[defender]\n'
    from narrows.tomlfile import parse_toml

    caps = 'cap = { hour = "1 GB", day = "10 GB", week = "35 GB" }\n'
    result = simulate(build(parse_toml("[model]\n" + text + caps, "w.toml")), 10)
    assert percentiles(result.outcomes["raw"].cap)[1] == 5e9  # the week's fifth of a day
    assert recommend(result).windows_bytes == {
        "hour": 10**9,
        "day": 10**10,
        "week": 35 * 10**9,
    }


def test_lifetime_cap_below_the_target_stops_every_theft() -> None:
    scenario = {"cap": "1 GB/day", "lifetime_cap": "1.9 GB", "weights": "2 GB"}
    result = simulate(build(None, None, scenario), 10)
    assert theft_probability(result, "raw") == 0.0
    enough = simulate(build(None, None, {**scenario, "lifetime_cap": "2 GB"}), 10)
    assert theft_probability(enough, "raw") == 1.0


def test_rush_takes_all_within_the_response_time() -> None:
    """Practitioners' rule: usable egress = headroom × how long an attack goes unanswered."""
    slow = made(weights="1 GB", cap="1 GB/day", usable_share="1%", response_time="12 h")
    result = evaluate(slow, {path: dist.median for path, dist in slow.numbers.items()})
    # Burst 2: half a day at twice the mean rate is the whole day's cap.
    assert float(result.outcomes["raw"].days) == pytest.approx(0.5)
    report = analyse(slow, 100)
    assert any("one loud rush" in note for note in report.notes)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=40))
def test_spearman_is_the_correlation_of_average_ranks(pairs: list[tuple[int, int]]) -> None:
    """Against ranks by counting, one by one: those below, and half of those equal."""
    a, b = (list(map(float, side)) for side in zip(*pairs, strict=True))

    def counted(values: list[float]) -> list[float]:
        return [sum(w < v for w in values) + sum(w == v for w in values) / 2 for v in values]

    got = spearman(np.array(a), np.array(b))
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert got == pytest.approx(correlation(counted(a), counted(b)), abs=1e-12)
    else:
        assert got == 0.0


def test_drivers_find_what_decides() -> None:
    wide = made(weight_compression="1..100", compressed="1.9..2.1 bits/token")
    found = find(simulate(wide, 20_000))
    assert found[0].path == "attacker.weight_compression"
    assert found[0].share > 0.95
    assert found[0].rank_correlation < -0.95
    assert found[0].days_low > found[0].days_high


def test_a_scenario_without_ranges_still_has_drivers() -> None:
    exact = build(None, None, {"weights": "1 TB", "cap": "1 GB/day"})
    found = {driver.path: driver for driver in find(simulate(exact, 100))}
    assert found["defender.cap"].rank_correlation is None
    assert found["defender.cap"].days_low == pytest.approx(2000.0)
    assert found["defender.cap"].share == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("flags", "level", "first"),
    [
        ({"parameters": "1T", "tokens_per_day": "1M"}, "protected", "PROTECTED with"),
        ({"parameters": "1B", "tokens_per_day": "1T"}, "unprotectable", "CANNOT BE PROTECTED"),
        (
            {
                "parameters": "1B",
                "tokens_per_day": "4M",
                "coding": "raw",
                "compressed": "2 bits/token",
            },
            "protectable",
            "NOT PROTECTED with raw answers",
        ),
    ],
)
def test_the_first_line_says_it(flags: dict[str, str], level: str, first: str) -> None:
    verdict = analyse(build(None, None, flags), 2_000).verdict
    assert verdict.level == level
    assert verdict.line.startswith(first)


def test_the_budget_fits_the_ledger() -> None:
    """The block's numbers are limits that the ledger accepts, tighter windows within wider."""
    import tomllib

    from narrows.ledger.limits import parse_limits
    from narrows.ledger.log.canonical import is_name

    lengths = {"1m": 60_000, "1h": 3_600_000, "1d": 86_400_000, "7d": 604_800_000}
    for name in preset_names():
        block = tomllib.loads(as_toml(recommend(simulate(load(None, name), 2_000))))["budget"]
        windows = [[lengths[key], size] for key, size in block["windows_bytes"].items()]
        document = {"lifetime_bytes": block["lifetime_bytes"], "windows": windows}
        limits = parse_limits(document, "limits", True)
        sizes = [size for _, size in limits.windows]
        assert sizes == sorted(sizes)
        assert all(size <= block["lifetime_bytes"] for size in sizes)
        assert is_name(block["lineage"])


@given(st.text(max_size=100))
def test_any_scenario_name_makes_a_lineage(name: str) -> None:
    from narrows.ledger.log.canonical import is_name

    assert is_name(lineage_name(name))


def test_the_recommended_lifetime_cap_keeps_the_weights_inside() -> None:
    """Signed as printed, the budget leaves at most one theft in twenty futures."""
    for name in preset_names():
        scenario = load(None, name)
        budget = recommend(simulate(scenario, 5_000))
        capped = load(None, name, {"lifetime_cap": f"{budget.lifetime_bytes} B"})
        result = simulate(capped, 5_000)
        assert theft_probability(result, result.deployed) <= 0.0502, name


@pytest.mark.parametrize(
    "thief",
    [
        {"usable_share": "20%", "response_time": "1 day"},
        {"usable_share": "5%..50%", "response_time": "4..48 h", "burst": "3"},
        {"usable_share": "20%", "response_time": "30 days"},
        {"usable_share": "20%", "response_time": "2 days", "verification": "true"},
        {"usable_share": "90%", "response_time": "1 min", "cap": "1 GB/day"},
        {"weight_compression": "4", "response_time": "4..48 h", "burst": "1"},
        {"weight_compression": "1", "coding": "raw"},  # exactly the weights are too much
        {"useful_fraction": "10%..100%", "growth": "1..4x/year", "lifetime": "1..5 years"},
    ],
)
def test_the_recommended_lifetime_cap_holds_against_a_rush(thief: dict[str, str]) -> None:
    """The quiet share of the cap and one rush at the end: together still too little."""
    flags = {"parameters": "70B", "tokens_per_day": "100B", "weight_compression": "1..100", **thief}
    budget = recommend(simulate(build(None, None, flags), 5_000))
    flags["lifetime_cap"] = f"{budget.lifetime_bytes} B"
    result = simulate(build(None, None, flags), 5_000)
    assert theft_probability(result, result.deployed) <= 0.0502
    assert budget.lifetime_bytes < budget.need_bytes
    # and it gives away nothing: a tenth more, and the weights fit through more often
    flags["lifetime_cap"] = f"{budget.lifetime_bytes * 1.1} B"
    result = simulate(build(None, None, flags), 5_000)
    assert theft_probability(result, result.deployed) > 0.0502


def test_keys_of_the_report() -> None:
    report = as_json(analyse(load(None, "llama-3.1-405b"), 500))
    assert report["weights_bytes"] == 810e9
    assert isinstance(report["cap_bytes_per_day"], float)
    for key in ("lifetime_outflow_bytes", "outflow_to_weights", "days_to_exfiltrate"):
        for coding in CODINGS:
            spread = report[key][coding]
            assert 0 < spread["p5"] <= spread["p50"] <= spread["p95"]
    assert {"input", "share", "rank_correlation"} <= report["drivers"][0].keys()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"users": "1..9", "tokens_per_user_per_day": "1M"}, "value of users makes the theft fas"),
        ({"growth": "3x/year", "lifetime": "1..4 years"}, "when demand has grown"),
        (
            {"training_tokens": "1T", "training_multiple": "1", "lifetime": "1..4 years"},
            "the same tokens are spread",
        ),
        ({"cap": "1 MB/day", "tokens_per_day": "1M..9M"}, "the cap is fixed, so demand only"),
        ({"cap": "1 MB/day"}, "take equally long"),
        ({"cap": "1 MB/day", "tokens_per_day": "1B"}, "serves only"),
        ({"accounts": "2", "bytes_per_account": "1 kB/day"}, "The cap does not matter here"),
        ({"extractable": "6%", "coupled": "1.1 bits/token"}, "hardly more bits than a verifier"),
    ],
)
def test_what_surprises_is_explained_in_one_sentence(flags: dict[str, str], words: str) -> None:
    notes = analyse(made(**flags), 5_000).notes
    (note,) = [note for note in notes if words in note]
    assert note.endswith(".")


def test_a_higher_price_is_not_said_to_speed_a_theft() -> None:
    notes = analyse(made(revenue="$1M/day", price="$1..20/Mtoken"), 5_000).notes
    assert not any("price" in note for note in notes)
