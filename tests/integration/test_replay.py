"""A short real run, made again from its ledger: every checksum equal, and one that was changed found."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from penstock.consumer.ledger_reader import LedgerReader
from penstock.imagesets.opening import open_imageset

CLI = "import sys; from penstock.deploy.cli import main; sys.argv[0] = 'penstock'; main()"
SHORT = ["--config", "demo", "--groups-per-step", "4", "--reservoir.capacity-groups", "8", "--max-steps", "5"]
SHORT += ["--fleet.local-producers", "1", "--stream.window-groups", "8", "--evaluation.data", "none"]
SHORT += ["--fleet.local-producer-config", str(Path(__file__).with_name("producer.yaml"))]
SHORT += ["--generator.images-per-group", "4", "--generator.num-inference-steps", "2"]
SHORT += ["--reservoir.reuse", "4", "--reservoir.images-per-use", "3"]


def penstock(*argv: str, code: int = 0) -> str:
    """What the command prints on both of its streams."""
    done = subprocess.run(
        [sys.executable, "-c", CLI, *argv],
        env=os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay") / "run"
    penstock("train", *SHORT, "--run-dir", str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_step_is_replayed_bit_for_bit(run_dir: Path, tmp_path: Path) -> None:
    shown = penstock("replay", str(run_dir), "--step", "3", "--out", str(tmp_path / "grid.png"))
    assert "4 of 4 groups match: 12 images, as the trainer had them\n" in shown
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_checksum_that_was_changed_is_found(run_dir: Path) -> None:
    with LedgerReader(run_dir) as ledger:
        index = ledger.uses(4)[0].group.index
    with closing(sqlite3.connect(run_dir / "ledger-0.sqlite")) as db, db:
        db.execute("UPDATE groups SET crc32 = crc32 + 1 WHERE idx = ?", (index,))
    try:
        shown = penstock("replay", str(run_dir), "--step", "4", code=1)
    finally:
        with closing(sqlite3.connect(run_dir / "ledger-0.sqlite")) as db, db:
            db.execute("UPDATE groups SET crc32 = crc32 - 1 WHERE idx = ?", (index,))
    assert f"group {index} differs from its checksum" in shown
    assert "3 of 4 groups match, 1 differ: 12 images\n" in shown


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_whole_run_becomes_a_set_of_images(run_dir: Path, tmp_path: Path) -> None:
    with LedgerReader(run_dir) as ledger:
        groups = list(ledger.groups())
        indices, uses = ledger.use_counts()
    assert [group.index for group in groups] == indices.tolist()
    assert uses.sum() == 5 * 4
    shown = penstock("export", str(run_dir), "--out", str(tmp_path / "set"))
    assert f"{len(groups)} of {len(groups)} groups match: {4 * len(groups)} images" in shown
    images = open_imageset(str(tmp_path / "set"), "train")
    assert list(images.captions) == [group.recipe.prompt for group in groups for _ in range(4)]
    assert len({images.image(row).tobytes() for row in range(len(images))}) == len(images)
    assert np.ptp(images.image(0)) > 50


@pytest.mark.slow
def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    for argv in (["replay", str(tmp_path), "--step", "0"], ["export", str(tmp_path), "--out", "x"]):
        shown = penstock(*argv, code=2)
        assert shown == f"error: {tmp_path} is not the folder of a run: it has no run.json\n"
    assert penstock("audit", "none", code=2) == "error: none is not the folder of a run: it is not there\n"
