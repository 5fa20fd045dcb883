"""A sweep of two real arms: trainers, producers, files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.consumer.ledger_reader import LedgerReader

SOURCE = "import sys; from penstock.config import process; from penstock.deploy import sweep\n"
SOURCE += "process.run(lambda: sweep.main(sys.argv[1:]))"
SHORT = ["--max-steps", "4", "--evaluation.every-steps", "1000000", "--groups-per-step", "8"]
SHORT += ["--reservoir.capacity-groups", "16", "--stream.window-groups", "16", "--fleet.local-producers", "1"]
SHORT += ["--fleet.local-producer-config", str(Path(__file__).with_name("producer.yaml"))]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_arms_share_their_prompts_and_give_a_curve(tmp_path: Path) -> None:
    words = ["guidance=1,3", "--out", str(tmp_path / "out"), *SHORT]
    done = subprocess.run(
        [sys.executable, "-c", SOURCE, *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [row["value"] for row in found["rows"]] == ["1", "3"]
    assert all(0 < row["test"]["mean"] < 1 and row["test"]["half_width"] is None for row in found["rows"])
    assert found["best"] is None
    assert "No best value: no arm was validated" in done.stdout
    assert (tmp_path / "out" / "curve.png").read_bytes().startswith(b"\x89PNG")
    used = [_ledger(tmp_path / "out" / f"guidance-{value}-seed-0") for value in (1, 3)]
    assert used[0] == used[1]
    assert len(used[0]) == 4


def _ledger(run_dir: Path) -> list[list[int]]:
    """The groups of each step."""
    with LedgerReader(run_dir) as ledger:
        return [[use.group.index for use in ledger.uses(step)] for step in ledger.steps]
