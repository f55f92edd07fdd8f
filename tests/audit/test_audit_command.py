"""``narrows audit run`` and ``show``: a tape in, a report out, faults said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit.rig import played, tiny_path, weak
from cli.here import outcome
from narrows.bench.audit.tape import tape_of


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tape, and the artifacts of the models that it needs."""
    folder = tmp_path_factory.mktemp("audit")
    tape = folder / "gate.tape"
    tape.write_bytes(tape_of(weak(), played()))
    (folder / "coins.key").write_bytes(b"k" * 32)
    (folder / "short.key").write_bytes(b"k" * 31)
    models = {"strong": str(tiny_path(1)), "weak": str(tiny_path(2))}
    return {"tape": str(tape), "folder": str(folder), **models}


def words(files: dict[str, str], *more: str) -> list[str]:
    return [
        "audit", "run", "--tape", files["tape"], "--model", files["strong"],
        "--weak", files["weak"], *more,
    ]  # fmt: skip


def test_a_run_writes_what_show_shows(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    report = Path(files["folder"]) / "report.json"
    code, out, _ = outcome(capsys, *words(files, "--json", "--out", str(report)))
    found = json.loads(out)
    assert code == 0
    assert found["state"] == "explained"
    assert found["off_argmax"] == 0
    assert found["credit_bytes"] > 0
    assert found["net_over_raw"] < 1
    assert json.loads(report.read_text()) == found
    _, text, _ = outcome(capsys, *["audit", "show", str(report)])
    assert "unexplained bits a token" in text
    assert "hello" in text  # a prompt of the worst answers
    _, again, _ = outcome(capsys, *["audit", "show", str(report), "--json"])
    assert json.loads(again) == found


def test_a_share_needs_a_key_and_takes_it(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = outcome(capsys, *words(files, "--share", "0.5"))
    assert (code, "nobody can guess" in err) == (2, True)
    folder = Path(files["folder"])
    code, _, err = outcome(
        capsys, *words(files, "--share", "0.5", "--key", str(folder / "short.key"))
    )
    assert (code, "31 bytes" in err) == (2, True)
    key = str(folder / "coins.key")
    code, out, _ = outcome(capsys, *words(files, "--share", "0.5", "--key", key, "--json"))
    found = json.loads(out)
    assert code == 0
    assert found["drawn"] <= found["segments"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["--scorer", "oracle"], "no scorer 'oracle'"),
        (["--share", "0"], "--share is above 0"),
        (["--tape", "/nonexistent"], "cannot read"),
    ],
)
def test_what_is_wrong_is_said(
    files: dict[str, str], change: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = outcome(capsys, *words(files, *change))
    assert code == 2
    assert reason in err


def test_what_is_no_tape_or_report_is_refused(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"no tape at all")
    code, _, err = outcome(capsys, *words(files, "--tape", str(bad)))
    assert (code, "no tape of version 1" in err) == (2, True)
    bad.write_bytes(Path(files["tape"]).read_bytes() + b"\xff" * 40)
    code, out, err = outcome(capsys, *words(files, "--tape", str(bad)))
    assert (code, out, "refused at byte" in err) == (2, "", True)
    for text in ("[]", "{}", "not json", "[" * 100_000):
        bad.write_text(text)
        code, _, err = outcome(capsys, *["audit", "show", str(bad)])
        assert (code, "no report" in err) == (2, True)


def test_honest_tapes_make_a_null_that_a_run_takes(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    null = tmp_path / "null.json"
    mine = words(files)[2:]
    code, out, _ = outcome(capsys, *["audit", "calibrate", *mine, "--out", str(null), "--json"])
    assert code == 0
    assert json.loads(out) == json.loads(null.read_text())
    assert json.loads(out)["segments"] == 6
    code, out, _ = outcome(capsys, *words(files, "--null", str(null), "--json"))
    assert (code, json.loads(out)["alarm"]) == (0, False)
    found = json.loads(null.read_text())
    for change in ({"slacks": [1e9, 1e9, 1e9]}, {"rates": [1]}, {"format": "x"}, {"slacks": 3}):
        null.write_text(json.dumps(found | change))
        code, _, err = outcome(capsys, *words(files, "--null", str(null)))
        assert (code, "null" in err) == (2, True)
