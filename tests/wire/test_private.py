"""A state folder is not taken as found: what others own or may write, and links, are refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from narrows.deploy.isolated import identities
from narrows.deploy.local import LocalDeployment, ensure_ledger
from narrows.edge.books.store import load_secret, open_database
from narrows.errors import InputError
from narrows.gate.main import serve, single_port
from narrows.ledger.ledger import Ledger
from narrows.ledger.office.setup import create_log_key, create_witness, open_witness
from narrows.ledger.stores.place import LedgerPlace
from narrows.private import private_folder

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("no_umask")
def test_every_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    made = private_folder(tmp_path / "a" / "state", "ledger", "operators")
    while made != tmp_path:
        assert mode(made) == 0o700
        made = made.parent
    assert mode(private_folder(tmp_path / "a" / "state", "weak", shown=True)) == 0o755


def test_what_others_may_read_they_may_under_every_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert mode(private_folder(tmp_path, "weak", shown=True)) == 0o755
        (tmp_path / "closed").mkdir(0o700)
        assert mode(private_folder(tmp_path, "closed", shown=True)) == 0o700, "not narrows' to open"
    finally:
        os.umask(before)


@pytest.mark.usefixtures("no_umask")
def test_every_folder_of_a_demonstration_is(tmp_path: Path) -> None:
    """``ledger`` was made on the way to ``ledger/operators``, with the umask's mode."""
    state = tmp_path / "new" / "state"
    ensure_ledger(state, 1000)
    folders = [state, *(path for path in state.rglob("*") if path.is_dir())]
    assert len(folders) == 4
    assert {mode(path) for path in folders} == {0o700}
    assert not [path for path in state.rglob("*") if path.is_file() and mode(path) & 0o077]


def _linked(state: Path, name: str) -> str:
    real = state / name
    real.rename(state.parent / "elsewhere")
    real.symlink_to(state.parent / "elsewhere")
    return "rm "


def _for_all(state: Path, name: str) -> str:
    (state / name).chmod(0o777)
    return "chmod go-w "


def _for_the_group(state: Path, name: str) -> str:
    (state / name).chmod(0o720)
    return "chmod go-w "


def _state_for_the_group(state: Path, name: str) -> str:
    state.chmod(0o770)
    return "chmod go-w "


def _given_away(state: Path, name: str) -> str:
    os.chown(state / name, 12345, -1)
    return f"chown {os.geteuid()} "


def _state_given_away(state: Path, name: str) -> str:
    os.chown(state, 12345, -1)
    return f"chown {os.geteuid()} "


def _linked_file(state: Path, name: str) -> str:
    (state / name / "planted").symlink_to("/etc/hostname")
    return "rm "


def _anothers_file(state: Path, name: str) -> str:
    (state / name / "planted").touch()
    os.chown(state / name / "planted", 12345, -1)
    return f"chown {os.geteuid()} "


FLAWS = (
    _linked, _for_all, _for_the_group, _state_for_the_group, _linked_file,
    pytest.param(_given_away, marks=as_root),
    pytest.param(_state_given_away, marks=as_root),
    pytest.param(_anothers_file, marks=as_root),
)  # fmt: skip

HERE = "127.0.0.1:1"
ROLES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "ledger": ("ledger", lambda state: Ledger.open(LedgerPlace(state), witness=None).close()),
    "ledger init": ("ledger", lambda state: create_log_key(LedgerPlace(state))),
    "witness": ("witness", lambda state: open_witness(state).close()),
    "witness init": ("witness", create_witness),
    "edge": ("edge", lambda state: open_database(state).close()),
    "edge's secret": ("edge", load_secret),
    "gate": ("gate", lambda state: serve(single_port(HERE, HERE, "answers"), state, print)),
    "isolated": ("isolated", identities),
    "run": ("run", lambda state: LocalDeployment.prepare(None, state)),
}


@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.parametrize("role", ROLES)
def test_what_others_have_their_hands_in_is_refused(
    role: str, flaw: Callable[[Path, str], str], tmp_path: Path
) -> None:
    name, use = ROLES[role]
    state = tmp_path / "state"
    private_folder(state, name)
    remedy = flaw(state, name)
    with pytest.raises(InputError) as caught:
        use(state)
    assert caught.value.remedy.startswith(remedy)
    assert "\n" not in str(caught.value)


def test_the_remedy_works_as_it_is_written(tmp_path: Path) -> None:
    state = tmp_path / "a state"
    private_folder(state, "ledger")
    (state / "ledger").chmod(0o777)
    with pytest.raises(InputError) as caught:
        private_folder(state, "ledger")
    assert os.system(caught.value.remedy) == 0
    private_folder(state, "ledger")
    assert mode(state / "ledger") == 0o755


def test_a_state_folder_may_be_reached_through_a_link(tmp_path: Path) -> None:
    private_folder(tmp_path / "real", "edge")
    (tmp_path / "named").symlink_to("real")
    assert private_folder(tmp_path / "named", "edge") == tmp_path / "named" / "edge"


def test_what_is_missing_is_left_so_if_asked(tmp_path: Path) -> None:
    assert private_folder(tmp_path / "no", "gate", make=False) == tmp_path / "no" / "gate"
    assert not (tmp_path / "no").exists()
    (tmp_path / "file").touch()
    with pytest.raises(InputError):
        private_folder(tmp_path / "file", "gate")


def test_models_may_be_linked_into_the_folder_that_is_shown(tmp_path: Path) -> None:
    folder = private_folder(tmp_path, "weak", shown=True)
    (folder / "a.narrows").symlink_to("/models/a.narrows")
    private_folder(tmp_path, "weak", shown=True)
    folder.chmod(0o775)
    with pytest.raises(InputError, match="others may write"):
        private_folder(tmp_path, "weak", shown=True)
