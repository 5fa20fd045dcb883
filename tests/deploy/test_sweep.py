"""A sweep from its command line to its files, with trainers that are mere functions, and the ends of real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from penstock.config.load import load_config
from penstock.consumer.config import TrainConfig
from penstock.deploy import sweep as sweep_verb
from penstock.deploy import sweep_runs
from penstock.deploy.demo import preset_dir
from penstock.deploy.sweep_runs import TrainerChild, last_line, run_arms, shared_cores
from penstock.protocol.errors import ConfigError, RunError

KNN = {"before": 0.13, "pixels": 0.6}


def _read(argv: Sequence[str]) -> TrainConfig:
    return load_config(TrainConfig, argv, preset_dir=preset_dir(), prog="penstock train", description="")


class Trainer:
    """Trainers that end at once, or with the sweep; keeps what they were started with."""

    def __init__(self) -> None:
        self.starts: list[list[str]] = []
        self.behaviours: dict[str, Callable[[TrainConfig, Path], int | None]] = {}
        """By the value of the guidance; those without one finish."""
        self.alive: set[str] = set()
        self.most_alive = 0

    def launch(self, env: dict[str, str], argv: Sequence[str], log: Path) -> "FakeChild":
        self.starts.append(list(argv))
        config = _read(argv)
        log.write_text("")
        return FakeChild(self, config, log)


class FakeChild:
    """Ends at the second look."""

    def __init__(self, trainer: Trainer, config: TrainConfig, log: Path) -> None:
        self._trainer, self._config, self._log = trainer, config, log
        self._looks = 0
        trainer.alive.add(log.name)
        trainer.most_alive = max(trainer.most_alive, len(trainer.alive))

    def poll(self) -> int | None:
        self._looks += 1
        if self._looks < 2:
            return None
        value = f"{self._config.generator.guidance_scale:g}"
        return self._trainer.behaviours.get(value, _finish)(self._config, self._log)

    def ask_to_end(self) -> None:
        pass

    def end(self, grace_s: float) -> None:
        self._trainer.alive.discard(self._log.name)


def _checkpoint(config: TrainConfig, step: int) -> None:
    (config.run_dir / "checkpoint").mkdir(parents=True, exist_ok=True)
    state = {"step": step, "record": {"knn": [[step, 0.9 - 0.1 * abs(config.generator.guidance_scale - 2)]]}}
    (config.run_dir / "checkpoint" / "state.json").write_text(json.dumps(state))


def _finish(config: TrainConfig, log: Path) -> int:
    _checkpoint(config, config.max_steps)
    knn = KNN | {"after": 0.8 - 0.1 * abs(config.generator.guidance_scale - 2) + 0.01 * config.seed}
    summary = {"steps": config.max_steps, "seconds": 12.0, "images_generated": 640, "knn": knn}
    (config.run_dir / "summary.json").write_text(json.dumps(summary))
    return 0


def _fail(config: TrainConfig, log: Path) -> int:
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "run.json").write_text("{}")
    log.write_text("step 1\nerror: the loss is nan at step 1\n\n")
    return 1


def _interrupt(config: TrainConfig, log: Path) -> int:
    _checkpoint(config, 3)
    raise KeyboardInterrupt


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    trainer = Trainer()
    monkeypatch.setattr(sweep_verb, "_launch", trainer.launch)
    monkeypatch.setattr(sweep_runs, "POLL_S", 0.0)
    return trainer


@pytest.fixture
def argv(tmp_path: Path) -> list[str]:
    return ["guidance=1,2,3", "--out", str(tmp_path / "out"), "--max-steps", "6"]


def _json(argv: Sequence[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads((Path(argv[2]) / "sweep.json").read_text())
    return found


def test_a_sweep_runs_every_arm_and_tells_what_it_found(
    trainer: Trainer, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep_verb.main([*argv, "--seeds", "0,1"]) == 0
    assert [_read(start).run_dir.name for start in trainer.starts] == [
        f"guidance-{value}-seed-{seed}" for seed in (0, 1) for value in (1, 2, 3)
    ]
    assert trainer.most_alive == 1
    out = Path(argv[2])
    found = _json(argv)
    assert (found["setting"], found["chosen_on"], found["reported_on"]) == (
        "generator.guidance-scale",
        "validation",
        "test",
    )
    assert [row["value"] for row in found["rows"]] == ["1", "2", "3"]  # type: ignore[attr-defined]
    assert found["best"]["row"]["value"] == "2"  # type: ignore[index]
    assert found["best"]["place"] == "inside"  # type: ignore[index]
    assert (out / "sweep.csv").read_text().count("\n") == 4
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "Equal in all arms: optimizer steps (6)" in said
    assert "Best guidance: 2. Chosen on validation, reported on test: 80.5% ± 6.4." in said


def test_results_stand_after_every_arm(trainer: Trainer, argv: list[str]) -> None:
    seen: list[int] = []

    def look(config: TrainConfig, log: Path) -> int:
        seen.append(len(_json(argv)["rows"]))  # type: ignore[arg-type]
        return _finish(config, log)

    trainer.behaviours = {"1": look, "2": look, "3": look}
    sweep_verb.main(argv)
    assert seen == [0, 1, 2]
    assert (Path(argv[2]) / "curve.png").is_file()


def test_finished_arms_are_left_and_new_values_added(trainer: Trainer, argv: list[str]) -> None:
    sweep_verb.main(argv)
    trainer.starts.clear()
    assert sweep_verb.main(argv) == 0
    assert trainer.starts == []
    sweep_verb.main(["guidance=2,3,5", *argv[1:]])
    assert [_read(start).generator.guidance_scale for start in trainer.starts] == [5]
    trainer.starts.clear()
    sweep_verb.main(["guidance=1,2,3,5", *argv[1:]])
    assert trainer.starts == [], "the arm that a sweep left out is still known"


def test_a_failing_arm_is_told_and_the_others_go_on(
    trainer: Trainer, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.behaviours = {"2": _fail}
    assert sweep_verb.main(argv) == 1
    assert len(trainer.starts) == 3
    captured = capsys.readouterr()
    assert "guidance-2-seed-0 failed: error: the loss is nan at step 1" in captured.err
    assert "2 of 3 arms have finished" in captured.out
    trainer.behaviours.clear()
    trainer.starts.clear()
    assert sweep_verb.main(argv) == 0
    assert [start[-1] for start in trainer.starts] == ["--overwrite"], "no checkpoint: it begins again"


def test_an_interrupted_sweep_says_how_to_go_on_and_does(
    trainer: Trainer, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.behaviours = {"2": _interrupt}
    with pytest.raises(KeyboardInterrupt):
        sweep_verb.main(argv)
    assert trainer.alive == set()
    assert f"the same command goes on: penstock sweep guidance=1,2,3 --out {argv[2]}" in capsys.readouterr().err
    trainer.behaviours.clear()
    trainer.starts.clear()
    assert sweep_verb.main(argv) == 0
    assert [(_read(start).generator.guidance_scale, _read(start).resume) for start in trainer.starts] == [
        (2, True),
        (3, False),
    ]


def test_an_arm_killed_behind_its_last_checkpoint_begins_again(trainer: Trainer, argv: list[str]) -> None:
    sweep_verb.main(argv)
    (Path(argv[2]) / "guidance-3-seed-0" / "summary.json").unlink()
    trainer.starts.clear()
    sweep_verb.main(argv)
    assert [start[-1] for start in trainer.starts] == ["--overwrite"]


def test_arms_of_other_settings_are_neither_taken_nor_deleted(trainer: Trainer, argv: list[str]) -> None:
    sweep_verb.main(argv)
    trainer.starts.clear()
    with pytest.raises(
        ConfigError, match="guidance-1-seed-0 was made with other settings; choose another --out, or --ov"
    ):
        sweep_verb.main([*argv, "--optimizer.weight-decay", "0.2"])
    assert trainer.starts == []
    assert sweep_verb.main([*argv, "--optimizer.weight-decay", "0.2", "--overwrite"]) == 0
    assert [start[-1] for start in trainer.starts] == ["--overwrite"] * 3


def test_a_run_that_no_sweep_made_is_not_taken_for_an_arm(trainer: Trainer, argv: list[str]) -> None:
    folder = Path(argv[2]) / "guidance-1-seed-0"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="was made with other settings"):
        sweep_verb.main(argv)


def test_arms_run_side_by_side_with_one_thread_each(trainer: Trainer, argv: list[str]) -> None:
    assert sweep_verb.main([*argv, "--parallel", "2"]) == 0
    assert trainer.most_alive == 2
    assert shared_cores(2) == {"OMP_NUM_THREADS": "1"}
    assert shared_cores(1) == {}


def test_a_place_where_no_folder_can_be_is_one_line(trainer: Trainer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot hold a sweep: .*; choose another --out"):
        sweep_verb.main(["guidance=1,2", "--out", str(tmp_path / "file" / "out")])


def test_help_names_every_flag_and_alias(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep_verb.main(["--help"]) == 0
    text = capsys.readouterr().out
    for word in ("--seeds", "--out", "--fix images", "--fix none", "--parallel", "--overwrite", "--config"):
        assert word in text
    for word in ("guidance", "generator.guidance-scale", "reuse", "objective.name", "temperature", "lr"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_last_line_is_the_last_that_says_something(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_line(log) == sweep_runs.NO_LINE
    log.write_text("\n \n")
    assert last_line(log) == sweep_runs.NO_LINE
    log.write_bytes(b"one\nerror: \xff two\n\n")
    assert last_line(log) == "error: � two"


# --- real processes ---------------------------------------------------------------------------------------------------


def test_a_trainer_is_a_process_whose_output_and_status_are_kept(tmp_path: Path) -> None:
    source = "import os; print(os.environ['OMP_NUM_THREADS']); raise SystemExit(3)"
    child = TrainerChild([sys.executable, "-c", source], tmp_path / "log", {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 20
    while (code := child.poll()) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    child.end(1.0)
    assert code == 3
    assert (tmp_path / "log").read_text() == "1\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_arms_and_all_that_they_started(tmp_path: Path, number: signal.Signals) -> None:
    arm = (
        "import os, subprocess, sys, time\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open(sys.argv[1] + '.part', 'w').write(f'{os.getpid()} {inner.pid}')\n"
        "os.rename(sys.argv[1] + '.part', sys.argv[1])\n"
        "time.sleep(60)"
    )
    outer = f"""
import sys
from pathlib import Path
from penstock.config import process
from penstock.deploy import sweep
from penstock.deploy.sweep_runs import TrainerChild
def launch(env, argv, log):
    return TrainerChild([sys.executable, "-c", {arm!r}, str(log) + ".pids"], log, env)
sweep._launch = launch
process.run(lambda: sweep.main(sys.argv[1:]))
"""
    words = ["guidance=1,2", "--parallel", "2", "--out", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-c", outer, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    files = [tmp_path / f"guidance-{value}-seed-0.log.pids" for value in (1, 2)]
    deadline = time.monotonic() + 40
    while not all(file.exists() for file in files):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pids = [int(pid) for file in files for pid in file.read_text().split()]
    assert all(psutil.pid_exists(pid) for pid in pids)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert b"the same command goes on: penstock sweep guidance=1,2 --parallel 2" in err
    assert b"Traceback" not in err
    for pid in pids:
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_no_child_outlives_an_error_of_the_sweeps_own(trainer: Trainer, argv: list[str]) -> None:
    from penstock.deploy.sweep_arguments import parse
    from penstock.deploy.sweep_plan import plan

    arms = plan(parse(argv), _read)

    def ended(*_: object) -> None:
        raise OSError("disk full")

    Path(argv[2]).mkdir()
    with pytest.raises(OSError, match="disk full"):
        run_arms(
            [(arm, "begin") for arm in arms],
            2,
            lambda words, log: trainer.launch({}, words, log),
            lambda *_: None,
            ended,
        )
    assert trainer.alive == set()
