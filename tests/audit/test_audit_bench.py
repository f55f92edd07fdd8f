"""``narrows bench audit`` from end to end, on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit.rig import tiny_path
from narrows.bench.audit import run
from narrows.cli.main import main
from narrows.cli.plan.measured import from_audit


def test_a_benchmark_reports_every_figure_and_the_forecast_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "STRONG", str(tiny_path(1)))
    monkeypatch.setattr(run, "SIMULATED_SEGMENTS", 2_000)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "audit", "--quick", "--weak", str(tiny_path(2)), "--json"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    found = json.loads(out)
    assert found["off_argmax"] == 0
    for key in (
        "scorer", "tokens", "unexplained_bits", "raw_bits", "net_over_raw", "bound_over_truth",
        "prefill_tok_s", "decode_tok_s", "edge_decode_tok_s", "histogram", "over_time", "model",
    ):  # fmt: skip
        assert found[key] is not None, key
    # a share of the recomputing is faster than all of it, and decoding bounds both
    full, part = found["audit_tok_s"]["1"], found["audit_tok_s"]["0.05"]
    assert 0 < full < part <= found["decode_tok_s"]
    path = tmp_path / "audit.json"
    path.write_text(out)
    measured = from_audit([path])
    assert measured.overrides["coding.audited_arithmetic"] == "exact"
    total = sum(
        float(measured.overrides[f"coding.{name}"].split()[0])
        for name in ("unexplained", "signalling", "timing")
    )
    left = found["raw_bits"] * found["net_over_raw"] / found["tokens"]
    assert total == pytest.approx(left, rel=0.01)
