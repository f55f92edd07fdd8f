"""Audited answers: what an audit leaves, what it would have to leave, and whose values count."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from narrows.audit.auditor import Rules
from narrows.audit.charge import SEGMENT_TOKENS
from narrows.audit.share.bound import GRID_STEPS, Bound, grid, log_factor
from narrows.cli.ledger.limits import read_block
from narrows.cli.main import main
from narrows.cli.plan.measured import from_audit
from narrows.errors import InputError
from narrows.plan import equations as eq
from narrows.plan.analysis import analyse, as_json
from narrows.plan.audited import MARK
from narrows.plan.budget import write_budget
from narrows.plan.scenario import Scenario, build, load
from narrows.plan.simulate import simulate, theft_probability

SMALL = {
    "unexplained": "0.08 bits/token",
    "signalling": "0.02 bits/token",
    "timing": "0.03 bits/token",
    "audited_parameters": "135M",
    "audited_kind": "dense",
    "audited_arithmetic": "bfloat16",
}
DEPLOYED = {**SMALL, "audit": "true", "coding": "coupled"}
REPORT = {
    "state": "explained",
    "scorer": "smollm2-135m",
    "share": 1.0,
    "segments": 10,
    "drawn": 10,
    "tokens": 1000,
    "off_argmax": 0.02,
    "unexplained_bits": 0.07,
    "unexplained_bits_upper_95": 0.09,
    "raw_bits": 5000,
    "bits_by_kind": {
        "tokens": 4600.0,
        "signals": 130.0,
        "checks": 100.0,
        "pushes": 0.0,
        "time and the gate's own": 100,
    },
    "credit_bytes": 580,
    "net_over_raw": 0.072,
    "bound_bits": 80.0,
    "not_scored": {},
    "link_faults": {},
    "tape_pending_bytes": 0,
    "alarm": False,
    "evidence_bits": -3.0,
    "by_position": {"0": 0.07},
    "worst": [],
}
BENCH = {**REPORT, "engine": "bfloat16", "model": {"parameters": 134515008, "kind": "dense"}}


def made(**flags: str) -> Scenario:
    base = {"parameters": "1B", "tokens_per_day": "1B", "lifetime": "1 year"}
    return build(None, None, {**base, **flags})


def written(folder: Path, value: object) -> Path:
    path = folder / "audit.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("worth", [0.5, 20.0, 400.0])
def test_the_bound_is_that_of_the_auditor(share: float, worth: float) -> None:
    """An auditor who has drawn just his share of 200,000 equal segments."""
    rules, count = Rules(), 200_000
    assert (SEGMENT_TOKENS, rules.bound_bits) == (eq.SEGMENT_TOKENS, eq.SEGMENT_BITS)
    assert rules.delta == eq.BOUND_DELTA
    assert grid(share) == pytest.approx(-math.log1p(-share) * eq.BOUND_RATES)
    bound = Bound(share, rules.delta)
    one = np.asarray(worth / rules.bound_bits)
    drawn = share * count
    bound.add(drawn * log_factor(one, share, grid(share)), drawn * float(one))
    exact = bound.total() * rules.bound_bits
    mine = float(eq.bound_bits(float(count), worth, share))
    # the mean of the rates' martingales lies between their greatest and that over their number
    assert exact * (1 - 1e-9) <= mine
    apart = math.log(GRID_STEPS) / (grid(share)[-1]) * rules.bound_bits
    assert mine <= exact + apart


def test_the_bound_is_nothing_where_all_is_audited_or_a_life_is_long() -> None:
    assert eq.bound_bits(1e9, 20.0, 1.0) == pytest.approx(20e9, rel=1e-4)
    assert eq.bound_bits(1e12, 20.0, 0.05) == pytest.approx(20e12, rel=1e-3)
    assert eq.bound_bits(10.0, 5000.0, 0.05) == 50_000  # above B: all are audited
    assert eq.bound_bits(10.0, 0.0, 0.05) > 0  # its constant


def test_audited_is_the_sum_of_its_parts_and_never_more_than_the_carrier() -> None:
    plan = analyse(made(**DEPLOYED), 500)
    audit = plan.audit
    assert audit is not None
    assert sum(audit.bits.values()) == pytest.approx(audit.total_bits)
    assert 0.13 < audit.total_bits < 0.131
    assert as_json(plan)["theft_probability"]["audited"] == audit.probability
    much = analyse(made(**{**DEPLOYED, "unexplained": "50 bits/token"}), 500)
    carrier, audited = much.forecast.outcomes["coupled"], much.forecast.outcomes["audited"]
    assert np.all(audited.outflow <= carrier.outflow * (1 + 1e-12))
    assert "audited" not in analyse(made(), 500).forecast.outcomes


@pytest.mark.parametrize(
    "more", [{}, {"usable_share": "30%", "response_time": "1 day"}, {"growth": "1..3x/year"}]
)
def test_the_break_even_charge_is_where_protection_begins(more: dict[str, str]) -> None:
    flags = {**DEPLOYED, "weight_compression": "1..100", "audit_share": "100%", **more}
    audit = analyse(made(**flags), 4_000).audit
    assert audit is not None
    flags |= {"signalling": "0 bits/token", "timing": "0 bits/token"}
    for factor, safe in ((0.98, True), (1.02, False)):
        flags["unexplained"] = f"{audit.most_bits * factor:.9g} bits/token"
        chance = theft_probability(simulate(made(**flags), 4_000), "audited")
        assert (chance <= 0.05) == safe


def test_a_small_dense_model_does_not_lift_cannot_from_a_mixture_of_experts() -> None:
    plan = analyse(load(None, "deepseek-v3", DEPLOYED), 2_000)
    line = plan.verdict.line
    assert plan.verdict.level == "unprotectable"
    assert line.startswith("CANNOT BE PROTECTED")
    assert "Missing: the unexplained bits a token of a mixture-of-experts or FP8 model" in line
    assert f"0.08{MARK}" in line
    assert "break-even charge is 0.0" in line
    assert f"{MARK} Extrapolated from a dense model of 135M parameters in bfloat16." in line
    # however good the small one was
    tiny = dict.fromkeys(("unexplained", "signalling", "timing"), "0 bits/token")
    plan = analyse(load(None, "deepseek-v3", DEPLOYED | tiny), 2_000)
    assert plan.verdict.level == "unprotectable"
    assert plan.audit is not None
    assert plan.audit.probability < 0.05
    measured = DEPLOYED | tiny | {"audited_arithmetic": "fp8"}
    plan = analyse(load(None, "deepseek-v3", measured), 2_000)
    assert plan.verdict.level == "protected"
    assert f"0{MARK} bits a token" in plan.verdict.line


@pytest.mark.parametrize(
    ("model", "measured", "missing"),
    [
        ({"kind": "dense"}, {}, None),
        ({"kind": "dense", "bytes_per_parameter": "1"}, {}, "8-bit"),
        ({"kind": "dense", "bytes_per_parameter": "1"}, {"audited_arithmetic": "int8"}, None),
        ({"kind": "dense"}, {"audited_arithmetic": "exact"}, "bfloat16"),
        ({"kind": "experts"}, {"audited_kind": "experts"}, None),
        ({}, {}, "model.kind"),
        ({"kind": "dense", "parameters": "150M"}, {"audited_arithmetic": "unknown"}, None),
        ({"kind": "experts", "parameters": "150M"}, {}, "mixture-of-experts"),
    ],
)
def test_whose_values_count(
    model: dict[str, str], measured: dict[str, str], missing: str | None
) -> None:
    flags = {**DEPLOYED, **model, **measured}
    audit = analyse(made(**flags), 200).audit
    assert audit is not None
    assert audit.extrapolated == (model.get("parameters") != "150M")
    assert (audit.missing is None) == (missing is None)
    assert missing is None or missing in str(audit.missing)


def test_the_model_that_was_audited_is_protected_without_a_mark() -> None:
    flags = {**DEPLOYED, "parameters": "135M", "kind": "dense", "tokens_per_day": "1M"}
    plan = analyse(made(**flags), 2_000)
    assert plan.verdict.line.startswith("PROTECTED with coupled answers, audited at 5 %")
    assert MARK not in plan.verdict.line


def test_the_waterfall_audits_instead_of_verifying() -> None:
    for flags, name, deployed in (
        (DEPLOYED, "audit answers", True),
        (DEPLOYED | {"verification": "true"}, "audit answers", True),
        (SMALL, "audit answers", False),
        (SMALL | {"verification": "true"}, "verify answers", True),
        ({}, "verify answers", False),
    ):
        steps = analyse(made(**flags), 500).steps
        assert (steps[-1].name, steps[-1].deployed) == (name, deployed)
        assert all(step.factor >= 1 for step in steps)


def test_net_and_raw_budget_reach_the_operators(tmp_path: Path) -> None:
    plan = analyse(load(None, "deepseek-v3", DEPLOYED), 4_000)
    budget = plan.budget
    assert budget.net is not None
    assert budget.lifetime_bytes > 1e12  # it only has to serve
    assert budget.net.lifetime_bytes < 10e9  # what 95 % of the futures bear
    path = tmp_path / "budget.toml"
    write_budget(budget, path)
    found = read_block(path)
    assert found.net is not None
    assert found.limits.lifetime_bytes == budget.lifetime_bytes
    assert found.net.lifetime_bytes == budget.net.lifetime_bytes
    assert len(found.net.windows) == len(budget.net.windows_bytes) > 0
    text = path.read_text()
    assert f"--net-lifetime {budget.net.lifetime_bytes} " in text
    path.write_text(text.replace("net_lifetime_bytes", "net_lifetime"))
    with pytest.raises(InputError) as refused:
        read_block(path)
    assert "net_lifetime_bytes" in " ".join(refused.value.problems)
    assert analyse(made(), 500).budget.net is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"unexplained": "0.1 bits/token"}, "belong together"),
        ({"audit": "true", "coding": "coupled"}, "audit needs unexplained"),
        ({**SMALL, "audit": "true"}, "audit needs coding = 'coupled'"),
        ({**SMALL, "audit": "perhaps"}, "true or false"),
        ({**SMALL, "audited_kind": "round"}, "must be one of dense"),
        ({**SMALL, "audit_share": "0%"}, "above"),
    ],
)
def test_what_does_not_fit_together_is_said(flags: dict[str, str], words: str) -> None:
    with pytest.raises(InputError) as refused:
        made(**flags)
    assert words in " ".join(refused.value.problems)


def test_a_report_becomes_the_inputs(tmp_path: Path) -> None:
    found = from_audit([written(tmp_path, BENCH)])
    scenario = build(None, "deepseek-v3", found.overrides)
    assert scenario.audit
    numbers = scenario.numbers
    assert numbers["coding.timing"].p5 == pytest.approx(0.1)
    assert numbers["coding.signalling"].p5 == pytest.approx(0.2)  # and the coder's slack
    assert numbers["coding.unexplained"].p5 == pytest.approx(0.06)
    assert numbers["coding.audited_parameters"].median == pytest.approx(134.5e6, rel=1e-3)
    assert scenario.choices["coding.audited_arithmetic"] == "bfloat16"
    assert numbers["defender.audit_share"].p5 == 0.05
    assert "0.36 bits/token" in found.note


def test_two_reports_are_a_range_and_a_share_is_an_estimate(tmp_path: Path) -> None:
    first = written(tmp_path, REPORT)
    second = tmp_path / "second.json"
    second.write_text(json.dumps({**REPORT, "share": 0.5, "segments": 20, "not_scored": {"x": 1}}))
    found = from_audit([first, second])
    low, high = found.overrides["coding.unexplained"].removesuffix(" bits/token").split("..")
    assert float(low) == pytest.approx(0.06)
    # the code, a bit for each segment, and one drawn segment of ten at what the link paid
    assert float(high) == pytest.approx((2 * (70 + 10) + 460) / 2000)
    assert found.overrides["defender.audit_share"] == "50%"
    second.write_text(json.dumps(BENCH))
    with pytest.raises(InputError, match="different models"):
        from_audit([first, second])


@pytest.mark.parametrize(
    "value",
    ["", "[]", "{}", "{", "[" * 100_000, "1" * 5000, '"' + "x" * (1 << 20) + '"',
     {**BENCH, "raw_bits": 10**400}, {**BENCH, "raw_bits": -1}, {**BENCH, "share": 0},
     {**BENCH, "tokens": True}, {**BENCH, "bits_by_kind": {str(n): 1 for n in range(999)}},
     {**BENCH, "state": "alarm"}, {**BENCH, "alarm": True}, {**BENCH, "tokens": 0},
     {**BENCH, "model": {"parameters": 1, "kind": "../x"}}, {**BENCH, "model": 3},
     {**BENCH, "over_time": [[1, 2]]}, {**BENCH, "worst": [{}]}, json.dumps(BENCH)[:-1],
     json.dumps({**BENCH, "raw_bits": 7}).replace(": 7", ": NaN")],
)  # fmt: skip
def test_hostile_reports_are_refused(
    tmp_path: Path, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, value)
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--preset", "deepseek-v3", "--from-audit", str(path)])
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert str(path) in err
    assert "Traceback" not in err


def test_the_command_says_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--preset", "deepseek-v3", "--from-audit", str(written(tmp_path, BENCH))]
    html = tmp_path / "report.html"
    with pytest.raises(SystemExit) as ended:
        main([*words, "--draws", "500", "--html", str(html), "--png", str(tmp_path / "p.png")])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert out.startswith("CANNOT")
    for text in ("Measured: 0.36 bits/token", "protected up to", "net_lifetime_bytes", MARK):
        assert text in out
    page = html.read_text()
    assert "What an audit of 5 % leaves" in page
    assert "What an auditor cannot explain" in page
    with pytest.raises(SystemExit):
        main([*words, "--draws", "500", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["audit"]["extrapolated"]
    assert found["budget"]["net"]["lifetime_bytes"] > 0


@pytest.mark.parametrize("name", ["deepseek-v3", "llama-3.1-405b", "frontier-lab"])
def test_what_cannot_be_protected_says_what_an_audit_would_buy(name: str) -> None:
    line = analyse(load(None, name), 2_000).verdict.line
    assert line.startswith("CANNOT BE PROTECTED")
    assert "An audit of 5 % leaves a thief 0.292†" in line
    assert "The break-even charge is" in line
    assert "Extrapolated from a dense model of 135M parameters in bfloat16" in line


def test_a_sweep_shows_what_is_deployed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "sweep", "--preset", "deepseek-v3", "--draws", "200", "--over"]
    for more, column, other in (
        ([], "verified", "audited"),
        (["--set", "audit=true", "--set", "coding=coupled"], "audited", "verified"),
    ):
        with pytest.raises(SystemExit):
            main([*words, "weight_compression=1,10", *more])
        out = capsys.readouterr().out
        assert column in out
        assert other not in out


def test_where_nothing_leaves_no_charge_is_too_high() -> None:
    audit = analyse(made(**SMALL, hidden_share="20%..100%"), 500).audit
    assert audit is not None
    assert audit.probability < 1


def test_a_book_for_everyone_is_a_book_for_everyone() -> None:
    result = simulate(load(None, "a-book-for-everyone"), 200)
    assert float(np.median(result.tokens)) == pytest.approx(8e9 * 1e5, rel=1e-3)
