"""What holds for every test of the suite: where it writes, how it ends."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is not a defect: no example has a deadline, none is too slow to draw.
settings.register_profile(
    "narrows", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("narrows")

FOLDER = pytest.StashKey[Path]()
# a word of a reason to the Debian package that ends it
PACKAGES = {
    "etcd": "etcd-server",
    "nft": "nftables",
    "iproute2": "iproute2",
    "ip ": "iproute2",
    "ethtool": "ethtool",
    "bubblewrap": "bubblewrap",
    "bwrap": "bubblewrap",
    "Chromium": "chromium",
    "nginx": "nginx-light",
    "spin": "spin gcc",
    "gcc": "gcc",
    "systemd": "systemd",
    "ping": "iputils-ping",
    "Prometheus": "prometheus",
}


def pytest_configure(config: pytest.Config) -> None:
    """One folder for all that the suite and its processes write; gone after a green run."""
    if not hasattr(config, "workerinput"):  # a worker inherits it
        folder = Path(tempfile.mkdtemp(prefix="narrows-t-"))
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        config.stash[FOLDER] = folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each of several workers begins with its part of the slow tests: one that came last would
    keep a single worker busy at the end. A module's tests stay together, for its fixtures."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers < 2:
        return
    slow: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("slow"):
            slow.setdefault(item.path, []).append(item)
    rest = [item for item in items if not item.get_closest_marker("slow")]
    groups = list(slow.values())
    items[:] = [
        item
        for number in range(workers)
        for part in (
            *groups[number::workers],
            rest[number * len(rest) // workers : (number + 1) * len(rest) // workers],
        )
        for item in part
    ]


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    folder = config.stash.get(FOLDER, None)
    if folder is not None and not config.stash.get(FAILED, False):
        shutil.rmtree(folder, ignore_errors=True)


FAILED = pytest.StashKey[bool]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[FAILED] = exitstatus not in (0, pytest.ExitCode.NO_TESTS_COLLECTED)


def skip_line(reasons: list[str], is_root: bool) -> str:
    """One line: what was skipped, why, and the command that installs what is missing."""
    if not reasons:
        return ""
    packages = {
        package
        for reason in reasons
        for word, package in PACKAGES.items()
        if re.search(rf"\b{re.escape(word)}", reason)
    }
    told = "; ".join(f"{count} × {reason}" for reason, count in Counter(reasons).most_common())
    remedy = f"apt-get install {' '.join(sorted(packages))}" if packages else ""
    root = "run as root" if not is_root and any("root" in reason for reason in reasons) else ""
    end = ", and ".join(part for part in (remedy, root) if part)
    return f"{len(reasons)} skipped: {told}" + (f". To run them: {end}" if end else "")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = [
        report.longrepr[2].removeprefix("Skipped: ")
        for report in skipped
        if isinstance(report.longrepr, tuple)
    ]
    if line := skip_line(reasons, os.geteuid() == 0):
        terminalreporter.write_line(line)
    config = terminalreporter.config
    if config.stash.get(FAILED, False) and (folder := config.stash.get(FOLDER, None)):
        terminalreporter.write_line(f"what the tests wrote is kept in {folder}")
