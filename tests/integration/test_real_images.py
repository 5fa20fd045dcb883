"""Real images in real runs: half of the groups beside a generator, and all of them without one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from penstock.consumer.ledger_reader import LedgerReader, read_steps
from penstock.imagesets.opening import open_imageset
from penstock.protocol.tickets import Kind

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 110.0
STEPS, GROUPS_PER_STEP = 4, 8
RUN = ["--config", "demo", "--max-steps", str(STEPS), "--groups-per-step", str(GROUPS_PER_STEP)]
RUN += ["--reservoir.capacity-groups", "8", "--reservoir.reuse", "1", "--generator.images-per-group", "4"]
RUN += ["--generator.height", "32", "--generator.width", "32", "--evaluation.data", "none"]
RUN += ["--stream.endpoint", "tcp://127.0.0.1:0", "--fleet.local-image-producers", "1", "--order", "ticket"]
RUN += ["--fleet.local-producer-config", str(Path(__file__).with_name("producer.yaml"))]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images of two classes, of several sizes."""
    folder = tmp_path_factory.mktemp("real") / "photos"
    for number in range(20):
        path = folder / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + number, 48), (number + 1, 90, 200)).save(path)
    return folder


def _train(run_dir: Path, *arguments: str) -> tuple[dict[str, Any], dict[int, Kind]]:
    """Run to the end; what its first life was told, and of what kind each group is."""
    command = [sys.executable, "-m", "penstock.consumer", *RUN, "--run-dir", str(run_dir), *arguments]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HOME": str(run_dir.parent / "hf"), "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with LedgerReader(run_dir) as ledger:
        return ledger.lives[0], {group.index: group.manifest.kind for group in ledger.groups()}


@pytest.mark.slow
def test_half_of_every_step_is_real(photos: Path, tmp_path: Path) -> None:
    real = ["--real.source", str(photos), "--real.fraction", "0.5", "--fleet.local-producers", "1"]
    life, kinds = _train(tmp_path / "run", *real)
    digest = open_imageset(str(photos)).digest
    assert (life["real_digest"], life["real"]["fraction"]) == (digest, 0.5)
    with LedgerReader(tmp_path / "run") as ledger:
        for group in ledger.groups():
            is_real = kinds[group.index] is Kind.REAL
            assert is_real == (group.recipe.prompt in ("cat", "dog"))
            assert is_real == (group.recipe.model_digest == group.manifest.model_digest == digest)
    steps = read_steps(tmp_path / "run")
    assert len(steps) == STEPS
    assert all(sum(kinds[index] is Kind.REAL for index in used) == GROUPS_PER_STEP // 2 for used in steps.values())


@pytest.mark.slow
def test_a_run_of_real_images_needs_no_generator_and_can_be_resumed(photos: Path, tmp_path: Path) -> None:
    real = ["--real.source", str(photos), "--real.fraction", "1", "--fleet.local-producers", "0"]
    life, kinds = _train(tmp_path / "run", *real)
    assert life["model_digest"] == ""
    assert set(kinds.values()) == {Kind.REAL}
    state = json.loads((tmp_path / "run/checkpoint/state.json").read_text())
    assert (state["model_digest"], state["real_digest"]) == ("", life["real_digest"])
    moved = photos.rename(tmp_path / "elsewhere")
    again = ["--real.source", str(moved), *real[2:], "--max-steps", str(STEPS + 2), "--resume"]
    _train(tmp_path / "run", *again)
    assert list(read_steps(tmp_path / "run")) == list(range(STEPS + 2))
