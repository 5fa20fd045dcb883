"""The trace of a run: all ranks in one file, however the run ends."""

import json
import logging
import time
from pathlib import Path

import pytest

from penstock.config.process import Terminated
from penstock.consumer.opening import check_trace
from penstock.consumer.run_folder import RunFolder
from penstock.consumer.watching import run_trace
from penstock.consumer.watching.rank_clocks import difference
from penstock.consumer.watching.run_trace import RunTrace
from penstock.protocol.actions import Traced
from penstock.protocol.errors import ConfigError, RunError
from penstock.protocol.watching import Trace
from penstock.telemetry.recorder import Flow
from tests.telemetry import trace_rules


def _folder(path: Path) -> RunFolder:
    (path / "run").mkdir(exist_ok=True)
    return RunFolder(path / "run", "r1", 7)


def _end_by(error: BaseException, trace: RunTrace) -> None:
    with pytest.raises(type(error)), trace:
        raise error


def test_every_rank_and_producer_is_in_the_file_though_the_run_ends_by_an_error(tmp_path: Path) -> None:
    path, folder = tmp_path / "trace.json", _folder(tmp_path)
    first, second = (RunTrace(str(path), folder, rank, 2) for rank in (0, 1))
    assert (first.asks_producers, second.asks_producers) == (True, False)
    now = time.monotonic_ns()
    first.recorder.add("issue", now, now, 0, 0, Flow.BEGIN)
    second.recorder.mark("issue", 1, 0, Flow.BEGIN)
    told = Trace(
        uncertainty_ns=5,
        stages=("held",),
        threads=("penstock-io",),
        flows=(2,),
        events=(0, now + 9000, 10, 0, 0),
    )
    first.producers.add(Traced(b"1", "ann", told))
    _end_by(KeyboardInterrupt(), second)
    _end_by(RunError("the fleet is gone"), first)
    trace = trace_rules.read(path)
    assert trace_rules.violations(trace) == []
    assert trace_rules.processes(trace) == {"rank 0": 1, "rank 1": 2, "producer ann": 3}
    assert trace_rules.ways(trace) == [[(1, "issue"), (3, "held")]]
    assert trace_rules.stages(trace, 2) == {"issue"}
    assert [*folder.path.iterdir()] == [], "what the other rank had left is taken away"


def test_a_rank_that_hangs_while_the_first_ends_is_in_the_file(tmp_path: Path) -> None:
    """Ctrl-C on all ranks at once finds some in a collective, which ends only when the first rank has gone."""
    path, folder = tmp_path / "trace.json", _folder(tmp_path)
    with RunTrace(str(path), folder, 1, 2) as hanging:
        hanging.recorder.mark("issue", 1, 0, Flow.BEGIN)
        _end_by(KeyboardInterrupt(), RunTrace(str(path), folder, 0, 2))
        assert trace_rules.processes(trace_rules.read(path)) == {"rank 0": 1, "rank 1": 2}
    assert [*folder.path.iterdir()] == [], "neither the question nor an answer is left, and none comes twice"


def test_a_producer_that_lies_about_its_times_does_not_shrink_the_run_to_a_dot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.json"
    with RunTrace(str(path), _folder(tmp_path), 0, 1) as trace:
        now = time.monotonic_ns()
        for at_ns, lasts_ns in ((now, 1000), (0, 1000), (now + 10**18, 0), (now, 10**18)):
            events = (0, at_ns, lasts_ns, -1, 0)
            told = Trace(uncertainty_ns=2**62, stages=("encode",), threads=("io",), flows=(0,), events=events)
            trace.producers.add(Traced(b"1", "ann", told))
        trace.recorder.mark("issue", 1, 0, Flow.BEGIN)
    slices = [event for event in trace_rules.read(path)["traceEvents"] if event["ph"] == "X"]
    assert sorted(event["name"] for event in slices) == ["encode", "issue"]
    assert max(event["ts"] + event["dur"] for event in slices) < 10**7, "microseconds"
    assert "leaves out 3 events of ann" in caplog.text


def test_what_is_said_of_a_rank_s_clock_grows_with_the_time_since_it_was_compared(tmp_path: Path) -> None:
    """RFC 5905, section 7.3: clocks drift by 15 µs in a second at most."""
    folder = _folder(tmp_path)
    for uncertainty_ns, expected_ns in ((400, 400 + 1000 * 15_000), (0, 0)):
        with RunTrace(str(tmp_path / "t.json"), folder, 1, 2) as trace:
            trace._uncertainty_ns = uncertainty_ns
            trace._aligned_ns -= 1000 * 10**9
        (part,) = folder.path.iterdir()
        assert json.loads(part.read_text())["uncertainty_ns"] == pytest.approx(expected_ns, abs=30_000 * 15)


def test_a_rank_that_leaves_nothing_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_trace, "_PATIENCE_S", 0.1)
    with RunTrace(str(tmp_path / "t.json"), _folder(tmp_path), 0, 2):
        pass
    assert "the trace lacks rank 1" in caplog.text
    assert trace_rules.processes(trace_rules.read(tmp_path / "t.json")) == {"rank 0": 1}


def test_a_signal_while_the_others_are_waited_for_costs_only_the_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher that sees rank 1 end tells rank 0 to, which is ending already because rank 1 has."""

    def told(seconds: float) -> None:
        raise Terminated(15)

    monkeypatch.setattr(run_trace.time, "sleep", told)
    with pytest.raises(Terminated), RunTrace(str(tmp_path / "t.json"), _folder(tmp_path), 0, 2) as trace:
        trace.recorder.mark("issue", 1, 0, Flow.BEGIN)
    assert trace_rules.stages(trace_rules.read(tmp_path / "t.json"), 1) == {"issue"}


def test_a_disk_that_is_full_does_not_hide_what_the_run_ended_by(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trace = RunTrace(str(tmp_path / "gone" / "t.json"), _folder(tmp_path), 0, 1)
    _end_by(RunError("the fleet is gone"), trace)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the trace could not be written" in caplog.text


def test_a_file_that_cannot_be_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, what in ((tmp_path, "must name a file"), (tmp_path / "file" / "t.json", "cannot be written")):
        with pytest.raises(ConfigError, match=f"trace {what}"):
            check_trace(str(path))
    with pytest.raises(ConfigError, match=r"trace cannot be written to \S+/file/t\.json: \S+/file: File exists$"):
        check_trace(str(tmp_path / "file" / "t.json"))
    check_trace("")
    check_trace(str(tmp_path / "new" / "t.json"))
    assert (tmp_path / "new").is_dir()


def test_a_home_of_nobody_is_a_folders_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_trace("~nobody-of-that-name/t.json")  # as in a shell, which leaves such a word as it is
    assert (tmp_path / "~nobody-of-that-name").is_dir()


def test_without_a_path_nothing_is_kept_or_written(tmp_path: Path) -> None:
    with RunTrace("", _folder(tmp_path), 0, 1) as trace:
        assert not trace.recorder.is_tracing
        assert not trace.asks_producers
    assert [*tmp_path.rglob("*.json")] == []


@pytest.mark.parametrize("ahead", [0, 5 * 10**12, -(10**9)])
def test_the_difference_of_two_ranks_clocks_follows_from_barriers(ahead: int) -> None:
    """Rank 0 is late at the first barrier, the other at the second; leaving takes each some time."""
    first = [[1000 + ahead, 1040 + ahead], [2000 + ahead, 2330 + ahead]]
    other = [[400, 1070], [2300, 2310]]
    # From the second: at most 2330 - 2300 = 30; from the first: at least 1000 - 1070 = -70.
    assert difference(first, other) == (ahead - 20, 50)
    assert difference(first, first) == (0, 40)
