"""Every fault's own processes, and the table of all faults at the end of the session."""

import re
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.faults.scene import Scene
from tests.faults.table import Row, render

ROW = pytest.StashKey[Row]()
ROWS = pytest.StashKey[list[Row]]()
"""Of the tests that were begun, in their order."""


class Report:
    """What a test says about its fault.

    Args:
        row: the fault's row in the table.
    """

    def __init__(self, row: Row) -> None:
        self._row = row

    def saw(self, what: str) -> None:
        """Measured facts, in a few words."""
        self._row.seen = what

    def recovered_in(self, seconds: float) -> None:
        """Time from the fault to the first group that needed the recovery."""
        self._row.recovery_s = max(0.0, seconds)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """The fault's row, for the test to fill in."""
    return Report(request.node.stash[ROW])


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Processes of this test; none of them outlives it."""
    made = Scene(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=["ticket", pytest.param("arrival", marks=pytest.mark.long)])
def order(request: pytest.FixtureRequest) -> str:
    """Both orders in which a rank may take its groups."""
    return str(request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("fault")
        if marker is not None:
            params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
            fault = marker.args[0].format(**params)
            item.stash[ROW] = Row(fault, str(params.get("order", "")), marker.kwargs["expected"].format(**params))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    row = item.stash.get(ROW, None)
    if row is not None:
        if report.when == "setup":
            item.config.stash.setdefault(ROWS, []).append(row)
        if report.when == "call":
            row.ok = report.passed
        elif report.failed:
            row.ok = False
        if not report.passed and call.excinfo is not None and not row.seen:
            row.seen = first_words(str(call.excinfo.value) or call.excinfo.typename)
    return report


def first_words(text: str) -> str:
    """The beginning of an error, on one line."""
    line = re.sub(r"\s+", " ", text.strip().partition("\n")[0])
    return line if len(line) <= 150 else line[:149] + "…"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A fault that was skipped was not survived."""
    if not all(row.ok for row in session.config.stash.get(ROWS, [])):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if rows:
        terminalreporter.section("faults")
        terminalreporter.write_line(render(rows))
