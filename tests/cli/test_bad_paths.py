"""A path that cannot be used costs one sentence, whatever the command and whatever the reason.

All commands run for real, as root without its powers over files where the tests run as root.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import typer

from cli.many import run_many
from cli.test_help import COMMANDS
from narrows.cli.plan.forecast import forecast_app
from narrows.ledger.keys import load_private, public_of
from narrows.ledger.office.demo import create_demo
from narrows.models.registry import DEFAULT_ARTIFACT

SCENARIO = "plan --preset llama-3.1-405b --draws 1000"

# BAD is the path under test. By what it is: a file to read, a file to write, a folder that is
# written, a folder that must be there.
READ = """
up --config BAD
enclave --config BAD
enclave --weak BAD
gate --config BAD --state {state}
edge --config BAD
edge --weak BAD --state {state}
telemetry --gate 127.0.0.1:1 --config BAD
metrics --config BAD --state {state}
witness --follow BAD --state {state}
witness --passphrase-file BAD --state {state}
key operator new bob --passphrase-file BAD --out {new}
budget propose --from BAD --out {new} --state {state}
budget sign BAD --key demo --yes --state {state}
budget sign {change} --key BAD --yes --state {state}
budget sign {change} --key demo --passphrase-file BAD --yes --state {state}
budget apply BAD --state {state}
budget inventory --file BAD --state {state}
ledger copy BAD --state {state}
ledger restore BAD --state {state}
ledger recover BAD --state {state}
log verify --file BAD
log checkpoint --file BAD
log prove 0 --file BAD
weak import BAD
weak show BAD
weak data BAD --out {new}
weak sample BAD --out {new} --model bytes
weak compare bytes bytes --answers BAD
weak transcripts redact --file BAD --id 1
weak publish BAD --key demo --source x --state {state}
weak publish {artifact} --key demo --data BAD --state {state}
weak publish {artifact} --key demo --source x --answers BAD --state {state}
weak publish {artifact} --key demo --source x --passphrase-file BAD --state {state}
weak switch BAD --folder {new}
weak export BAD
weak receive --gate 127.0.0.1:1 --at-most 1kB --out {new} --config BAD
budget credit BAD --state {state}
audit show BAD
audit run --tape BAD
audit serve --config BAD
audit post --gate 127.0.0.1:1 --lineage demo --config BAD --state {state}
audit post --gate 127.0.0.1:1 --lineage demo --operator demo --passphrase-file BAD --state {state}
audit calibrate --tape BAD --out {new}
tape ship --to 127.0.0.1:1 --once --config BAD
tape ship --to 127.0.0.1:1 --once --folder BAD
plan BAD
plan --from-codec BAD
plan --preset llama-3.1-405b --from-audit BAD
plan sweep BAD --over cap=1..2GB/day:2
plan weights BAD
bench serve --config BAD
bench codec --answers BAD
bench less --answers BAD
bench engines http://127.0.0.1:1/v1 --folder BAD
bench detect --answers BAD
bench detect --answers {answers} --null BAD
alarms test --config BAD
alarms calibrate --answers BAD --out {new}
redteam probe --from outside --config BAD
"""
WRITE = """
key operator add {key} --out BAD --state {state}
key operator rotate {own} {key} --out BAD --state {state}
key operator revoke {own} --out BAD --state {state}
budget propose --lineage demo --lifetime 2MB --account answers --out BAD --state {state}
budget enrol --lineage demo --gate g --auditor {key} --pins {own} --out BAD --state {state}
budget revoke --lineage demo --gate g --out BAD --state {state}
budget charge --lineage demo --bytes 5 --reason x --out BAD --state {state}
budget inventory --write BAD
ledger backup BAD --state {state}
ledger recover --propose BAD --state {state}
weak import {checkpoint} --out BAD
weak transcripts export --out BAD --state {state}
weak receive --gate 127.0.0.1:1 --at-most 1kB --out BAD --state {state}
SCENARIO --budget BAD
alarms calibrate --answers {answers} --out BAD
audit calibrate --tape {answers} --out BAD
audit run --tape {answers} --out BAD
redteam run link-ends --html BAD
redteam all --html BAD
metrics --write-rules BAD
metrics --write-dashboard BAD
redteam probe --from outside --shut 127.0.0.1:1 --out BAD
"""
MADE = """
up --budget 1kB --port 0 --state BAD
gate --listen 127.0.0.1:0 --enclave 127.0.0.1:1 --state BAD
edge --weak bytes --listen 127.0.0.1:0 --state BAD
witness --init --state BAD
init BAD
key new a --state BAD
key operator new bob --out BAD
key operator new bob --state BAD
ledger init --origin a.b/c --operator {own} --threshold 1 --witness-key {own} --state BAD
weak data {answers} --out BAD
weak sample {answers} --out BAD --model bytes
weak switch {artifact} --folder BAD
audit keygen --out BAD
tape receive --listen 127.0.0.1:0 --folder BAD
"""
THERE = """
audit post --gate 127.0.0.1:1 --lineage demo --state BAD
status --state BAD
status --json --state BAD
witness --state BAD
key list --state BAD
key limit 1 --rpm 5 --state BAD
key revoke 1 --state BAD
key operator list --state BAD
key operator add {key} --out {new} --state BAD
key operator rotate {own} {key} --out {new} --state BAD
key operator revoke {own} --out {new} --state BAD
budget show --state BAD
budget propose --lineage demo --lifetime 2MB --account answers --out {new} --state BAD
budget apply {change} --state BAD
budget history --state BAD
budget enrol --lineage demo --gate g --auditor {key} --pins {own} --out {new} --state BAD
budget revoke --lineage demo --gate g --out {new} --state BAD
budget charge --lineage demo --bytes 5 --reason x --out {new} --state BAD
budget credit {change} --state BAD
ledger backup {new} --state BAD
ledger copy {new} --state BAD
ledger release gate --state BAD
ledger recover --propose {new} --state BAD
log verify --state BAD
log checkpoint --state BAD
log prove 0 --state BAD
weak transcripts show --state BAD
weak transcripts redact --id 1 --state BAD
weak transcripts export --out {new} --state BAD
plan --from-ledger BAD
alarms list --state BAD
alarms ack --all --state BAD
forecast --state BAD
metrics --once --state BAD
"""
# Elsewhere: they need packages or minutes, or a path of theirs may be anything.
UNTRIED = {"weak average", "weak train", "bench runtime", "bench ledger"}


def _bad(folder: Path) -> dict[str, list[str]]:
    """Paths that cannot be used, by what a command wants of them."""
    (folder / "folder").mkdir(mode=0o700)
    (folder / "file").write_text("x")
    (folder / "secret").write_text("x")
    (folder / "secret").chmod(0)
    for name, mode in (("fixed", 0o500), ("closed", 0)):
        (folder / name).mkdir()
        (folder / name).chmod(mode)
    inside, closed = str(folder / "file" / "x"), str(folder / "closed" / "x")
    long, nobody = "n" * 300, "~no-such-user/x"
    fixed = str(folder / "fixed" / "x")
    return {
        "read": [str(folder / "missing"), str(folder / "folder"), str(folder / "secret"), closed],
        "write": [inside, fixed, str(folder / "folder"), str(folder / "missing" / "x")],
        "made": [str(folder / "file"), inside, fixed, closed],
        "there": [str(folder / "missing"), str(folder / "file"), closed, long, nobody],
    }


def _lines() -> list[tuple[str, str]]:
    by_kind = {"read": READ, "write": WRITE, "made": MADE, "there": THERE}
    return [
        (kind, line.replace("SCENARIO", SCENARIO))
        for kind, text in by_kind.items()
        for line in text.strip().splitlines()
    ]


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.torture)])
def test_a_bad_path_is_one_sentence(tmp_path: Path, every: int) -> None:
    """One command in ``every``."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    create_demo(state, 1_000_000)
    answers = tmp_path / "answers.jsonl"
    rows = [{"prompt": f"p{n}", "response": f"answer {n}"} for n in range(20)]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = public_of(load_private(state / "ledger" / "operators" / "demo.key")).hex()
    places = {
        "state": state,
        "answers": answers,
        "artifact": DEFAULT_ARTIFACT,
        "checkpoint": answers,
        "new": tmp_path / "new",
        "change": tmp_path / "change.json",
        "own": own,
        "key": "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
    }
    raised = "budget propose --lineage demo --lifetime 2MB --account answers --out {change}"
    words = f"{raised} --state {state}".format(**places).split()
    ((code, said, _),) = run_many([words], tmp_path)
    assert code == 0, said
    (tmp_path / "bad").mkdir()
    bad = _bad(tmp_path / "bad")
    cases = [
        [path if word == "BAD" else word for word in line.format(**places).split()]
        # every reason for every kind of command, not for every command: that would take minutes
        for at, (kind, line) in list(enumerate(_lines()))[::every]
        for path in (bad[kind][at % len(bad[kind])],)
    ]
    wrong = []
    done = run_many(cases, tmp_path, powerless=True)
    for words, (code, said, _) in zip(cases, done, strict=True):
        ours = said.startswith("narrows: ") and len(said.splitlines()) <= 4
        option = "Invalid value for" in said and len(said.splitlines()) <= 12  # Typer's own box
        if code not in range(1, 7) or not (ours or option) or "Traceback" in said:
            wrong.append(f"{' '.join(words)}\n  exit {code}: {said[-600:]}")
    assert not wrong, "\n".join(wrong)


def test_every_command_that_takes_a_path_is_tried() -> None:
    tried = {line for _, line in _lines()}
    apps = {name: app for name, app in COMMANDS.items() if isinstance(app, typer.Typer)}
    apps |= {f"plan {name}": app for name, app in COMMANDS["plan"].subcommands.items()}
    apps["plan"] = forecast_app
    missing = []
    for name, callback in _callbacks(apps):
        signature = inspect.signature(callback, eval_str=True)
        for parameter in signature.parameters.values():
            if "Path" not in str(parameter.annotation) or name in UNTRIED:
                continue
            if not any(line.startswith(name) for line in tried):
                missing.append(f"{name}: {parameter.name}")
    assert not missing


def _callbacks(apps: dict[str, typer.Typer]):
    for name, app in apps.items():
        for command in app.registered_commands:
            more = len(app.registered_commands) > 1 or app.registered_groups
            inner = command.name or command.callback.__name__
            yield (f"{name} {inner}" if more else name), command.callback
        yield from _callbacks(
            {f"{name} {group.name}": group.typer_instance for group in app.registered_groups}
        )
