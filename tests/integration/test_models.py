"""Whole runs on models of other kinds: a trainer and `penstock produce --model FOLDER`, as real processes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.consumer.ledger_reader import LedgerReader
from tests.faults.programs import Program
from tests.faults.scene import free_port
from tests.producer import folders

KINDS = {"xl": folders.make_xl, "lcm": folders.make_lcm, "sd3": folders.make_sd3}
RUN = ["--config", "demo", "--max-steps", "3", "--groups-per-step", "4", "--reservoir.capacity-groups", "8"]
RUN += ["--fleet.local-producers", "0", "--evaluation.data", "none", "--stream.window-groups", "8"]
RUN += ["--reservoir.reuse", "2", "--generator.images-per-group", "2", "--generator.num-inference-steps", "2"]
RUN += ["--optimizer.warmup-steps", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_another_kind_serves_a_run(kind: str, tmp_path: Path) -> None:
    make: Callable[[Path], Path] = KINDS[kind]
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    run = tmp_path / "run"
    trainer = Program(
        ["-m", "penstock.consumer", *RUN, "--stream.endpoint", endpoint, "--run-dir", str(run)],
        tmp_path / "trainer.log",
    )
    producing = ["--model", str(make(tmp_path)), "--device", "cpu", "--dtype", "float32", "--threads", "1"]
    producer = Program(
        ["-m", "penstock.producer", *producing, "--connect", endpoint, "--batch-images", "4", "--batch-wait-s", "0.2"],
        tmp_path / "producer.log",
    )
    try:
        assert trainer.end() == 0, trainer.output + producer.output
        assert producer.end() == 0, producer.output
    finally:
        for program in (trainer, producer):
            program.kill()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["images_trained"] == 3 * 4 * 2
    with LedgerReader(run) as ledger:
        manifest = next(ledger.groups()).manifest
    assert manifest.settings["engine"].startswith("pipeline" if kind == "sd3" else "stable-diffusion")
