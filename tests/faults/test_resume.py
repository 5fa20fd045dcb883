"""Real trainers in lives of 2, 1 and 4 ranks make the run of one rank that nobody disturbed."""

import json
from pathlib import Path

import pytest

from tests.faults.conftest import Report
from tests.faults.programs import ROOT
from tests.faults.scene import Scene

BOUND_S = 420.0


@pytest.mark.long
@pytest.mark.timeout(BOUND_S + 20)
@pytest.mark.fault("resume 2 → 1 → 4 ranks", expected="each life killed; the ledger of an unbroken run, step by step")
def test_lives_of_other_sizes_read_one_order(scene: Scene, tmp_path: Path, report: Report) -> None:
    figures = tmp_path / "figures.json"
    script = str(ROOT / "benchmarks" / "resume.py")
    benchmark = scene.program("resume", script, "--ranks", "2,1,4", "--json", str(figures), ends_with_us=False)
    status = benchmark.end(BOUND_S)
    assert figures.exists(), benchmark.output
    result = json.loads(figures.read_text())
    seen = "the same ledger" if result["ledger_equal"] else "another ledger"
    report.saw(f"{seen}, {result['lost']} lost, {result['duplicated']} twice, killed at {result['killed_at']}")
    assert (result["ledger_equal"], result["lost"], result["duplicated"]) == (True, 0, 0)
    assert len(result["killed_at"]) == 2
    assert status == 0
