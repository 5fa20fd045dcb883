"""Whole runs of every objective: trainer and producer as real processes, unbroken and resumed."""

import hashlib
import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.faults.programs import Program

OTHERS = ("simclr", "clip", "supervised")
RUN = ["--config", "demo", "--groups-per-step", "4", "--reservoir.capacity-groups", "8", "--reservoir.reuse", "8"]
RUN += ["--fleet.local-producers", "1", "--stream.window-groups", "8", "--evaluation.data", "none"]
RUN += ["--fleet.local-producer-config", str(Path(__file__).with_name("producer.yaml"))]
RUN += ["--generator.images-per-group", "2", "--generator.num-inference-steps", "2", "--mixed-precision", "no"]
RUN += ["--model.hidden-size", "16", "--model.num-layers", "1", "--text.hidden-size", "16", "--text.num-layers", "1"]
LONG_S = 110.0
"""Longer than anything takes on a busy machine."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def _start(folder: Path, run: Path, *options: str) -> Program:
    return Program(["-m", "penstock.consumer", *RUN, "--run-dir", str(run), *options], folder / "trainer.log")


def _finish(folder: Path, run: Path, *options: str) -> str:
    """Run to a good end; what was said."""
    trainer = _start(folder, run, *options)
    try:
        assert trainer.end(LONG_S) == 0, trainer.output
    finally:
        trainer.kill()
    assert "Traceback" not in trainer.output
    return trainer.output


def _step_of(run: Path) -> int:
    """Where the run's checkpoint stands; 0 without one."""
    path = run / "checkpoint" / "state.json"
    return int(json.loads(path.read_text())["step"]) if path.exists() else 0


@pytest.mark.parametrize(
    "name",
    ["stablerep", "stablerep+", "synclr", *(pytest.param(name, marks=pytest.mark.long) for name in OTHERS)],
)
def test_every_objective_trains_in_parts_and_keeps_the_average(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--objective.name", name, "--max-steps", "4"]
    _finish(tmp_path, run, *options, "--optimizer.grad-accum-steps", "2", "--optimizer.ema-decay", "0.9")
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["images_trained"]) == (4, 4 * 4 * 2)
    losses = json.loads((run / "checkpoint" / "state.json").read_text())["record"]["loss"]
    assert [step for step, _ in losses] == [1, 4]
    exported, saved = (
        load_file(run / "encoder" / "model.safetensors"),
        load_file(run / "checkpoint" / "model.safetensors"),
    )
    prefix = "vision_model." if any(key.startswith("vision_model.") for key in exported) else ""
    for kept, same in (("average.module.", True), ("encoder.", False)):
        of_run = {key.removeprefix(kept): value for key, value in saved.items() if key.startswith(kept)}
        assert of_run
        equal = [(of_run[key] == exported[prefix + key]).all() for key in of_run if prefix + key in exported]
        assert equal
        assert all(equal) is same, kept


@pytest.mark.parametrize("name", ["synclr", pytest.param("stablerep+", marks=pytest.mark.long)])
def test_a_run_that_was_killed_ends_in_the_weights_of_one_that_was_not(name: str, tmp_path: Path) -> None:
    options = ["--objective.name", name, "--order", "ticket", "--max-steps", "60", "--checkpoint-every-steps", "5"]
    options += ["--optimizer.ema-decay", "0.9", "--optimizer.warmup-steps", "2", "--model.drop-path", "0.2"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    _finish(tmp_path, whole, *options)
    trainer = _start(tmp_path, broken, *options)
    try:
        trainer.until(lambda: _step_of(broken) >= 5, "a checkpoint is written", LONG_S)
    finally:
        trainer.kill()
    assert 5 <= _step_of(broken) < 60
    _finish(tmp_path, broken, *options, "--resume")
    assert _step_of(whole) == _step_of(broken) == 60
    for file in ("encoder/model.safetensors", "checkpoint/model.safetensors"):
        digests = [hashlib.sha256((run / file).read_bytes()).hexdigest() for run in (whole, broken)]
        assert digests[0] == digests[1], file


@pytest.mark.parametrize("every", ["5", pytest.param("1000", marks=pytest.mark.long)])
def test_a_rate_that_breaks_the_weights_ends_the_run_in_one_line_and_spares_the_last_good_checkpoint(
    every: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    _finish(tmp_path, run, "--max-steps", "3", "--optimizer.warmup-steps", "0")
    good = (run / "checkpoint" / "model.safetensors").read_bytes()
    # Step 4, the first of this life, breaks the weights, which the gradients of step 5 show.
    options = ["--resume", "--max-steps", "60", "--optimizer.warmup-steps", "0", "--checkpoint-every-steps", every]
    (tmp_path / "trainer.log").unlink()
    trainer = _start(tmp_path, run, *options, "--optimizer.base-lr", "1e30", "--optimizer.max-skipped-steps", "3")
    try:
        assert trainer.end(LONG_S) == 1, trainer.output
    finally:
        trainer.kill()
    assert "Traceback" not in trainer.output
    errors = [line for line in trainer.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, trainer.output
    assert "steps were no finite numbers" in errors[0]
    assert "lower optimizer.base_lr" in errors[0]
    assert _step_of(run) == 3
    assert (run / "checkpoint" / "model.safetensors").read_bytes() == good
