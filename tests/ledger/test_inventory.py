"""The list of ways beside the gate: no answer missing, old, or without consequence."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from ledger.test_charge import run
from narrows.cli.ledger.ways import WAYS, Booked, Way, open_problems, read_ways, template
from narrows.errors import InputError
from narrows.ledger.office.demo import create_demo

TODAY = datetime.date(2026, 3, 1)
SHUT = Way(False, "no route", checked=TODAY, by="alice")
OPEN = Way(True, "a bastion", 5000, "weekly", "base", TODAY, "alice")


def problems(booked: dict[str, Booked] | None = None, **ways: Way) -> list[str]:
    return open_problems(ways, booked, TODAY, 90, 31)


def test_an_answer_says_what_when_and_by_whom() -> None:
    assert not problems(ssh=SHUT)
    assert problems(ssh=Way()) == ["ssh: open is not answered"]
    for wrong in (
        Way(False, "", checked=TODAY, by="alice"),
        Way(False, "no route", by="alice"),
        Way(False, "no route", checked=TODAY),
        Way(False, "no route", checked=TODAY - datetime.timedelta(91), by="alice"),
        Way(False, "no route", checked=TODAY + datetime.timedelta(1), by="alice"),
        Way(True, "a bastion", 0, "", "base", TODAY, "alice"),
        Way(True, "a bastion", 0, "weekly", "", TODAY, "alice"),
    ):
        assert len(problems(ssh=wrong)) == 1


def test_an_open_way_is_charged_lately() -> None:
    assert not problems(ssh=OPEN)  # no ledger to ask
    assert problems({}, ssh=OPEN) == ["lineage base: never charged for its open ways"]
    for days, count in ((0, 0), (31, 0), (32, 1)):
        booked = {"base": Booked(5, TODAY - datetime.timedelta(days))}
        assert len(problems(booked, ssh=OPEN, logs=OPEN)) == count


def test_every_mistake_of_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "ways.toml"
    path.write_text('[ssh]\nopen = "maybe"\nhwo = "x"\n[mine]\nday_bytes = "5 apples"\n')
    with pytest.raises(InputError) as caught:
        read_ways(path)
    assert len(caught.value.problems) == 3
    assert all("ways.toml:" in one for one in caught.value.problems)
    for text in ('[ssh]\nhow = "\\u001b[2J"\n', "[ssh]\nday_bytes = -1\n", '["a\\nb"]\n'):
        path.write_text(text)
        with pytest.raises(InputError):
            read_ways(path)
    path.write_text("".join(f"[w{number}]\n" for number in range(65)))
    with pytest.raises(InputError, match="over 64"):
        read_ways(path)


def test_from_the_empty_list_to_one_that_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, file, change = tmp_path / "state", tmp_path / "ways.toml", tmp_path / "charge.json"
    create_demo(state, 1_000_000)
    assert all(name in run(capsys, "budget", "inventory") for name in WAYS)
    run(capsys, "budget", "inventory", "--write", file)
    assert file.read_text() == template()
    run(capsys, "budget", "inventory", "--write", file, code=2)
    check = ("budget", "inventory", "--file", file, "--state", state)
    assert run(capsys, *check, code=1).count("is not answered") == len(WAYS)
    today = datetime.datetime.now(datetime.UTC).date()
    signed = f'checked = {today}\nby = "alice"\n'
    shut = [f'[{name}]\nopen = false\nhow = "no route"\n{signed}' for name in WAYS if name != "ssh"]
    way = '[ssh]\nopen = true\nhow = "a bastion"\nday_bytes = "5kB"\ncharged = "monthly"\n'
    file.write_text(f'{way}lineage = "demo"\n{signed}{"".join(shut)}')
    assert "lineage demo: never charged" in run(capsys, *check, code=1)
    words = ("--lineage", "demo", "--bytes", "150kB", "--reason", "a month of shells")
    run(capsys, "budget", "charge", *words, "--out", change, "--state", state)
    run(capsys, "budget", "sign", change, "--key", "demo", "--yes", "--state", state)
    run(capsys, "budget", "apply", change, "--state", state)
    said = run(capsys, *check)
    assert f"1 of {len(WAYS)} ways are open, 5,000 bytes a day at most" in said
    assert "lineage demo: 150,000 bytes charged" in said
    found = json.loads(run(capsys, *check, "--json"))
    assert (found["missing"], found["charged_bytes"]) == ([], {"demo": 150_000})
