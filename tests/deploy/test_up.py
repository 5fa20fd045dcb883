"""`penstock up` as a command: what it says before and after, and what it refuses."""

import json
import sys
from pathlib import Path

import pytest

from penstock.deploy import up
from penstock.deploy.cli import dispatch
from penstock.deploy.up_config import UpConfig
from penstock.deploy.up_logs import Logs
from penstock.deploy.up_processes import Processes
from penstock.protocol.errors import ConfigError, RunError
from penstock.telemetry import machine


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight GPUs; nobody has chosen a number of threads."""
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: ["NVIDIA H200, 143771 MiB, driver 570.86"] * 8)
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_the_help_shows_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dispatch(["up", "--help"])
    text = capsys.readouterr().out
    assert "penstock up PLAN.yaml --producer-devices 0-5 --trainer-devices 6,7" in text
    for flag in ("--train STR", "--produce STR", "--resume", "--view {auto,trainer,merged}", "--dry-run"):
        assert flag in text


def test_a_dry_run_prints_every_command_and_starts_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    devices = ["--producer-devices", "0-1", "--trainer-devices", "6,7"]
    train = f"--run-dir {tmp_path / 'run'} --stream.endpoint tcp://127.0.0.1:5599"
    assert dispatch(["up", *devices, "--train", train, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "# rank-0 on GPU 6",
        "# rank-1 on GPU 7",
        "# producer-0 on GPU 0",
        "# producer-1 on GPU 1",
    ]
    assert f" {sys.executable} -m penstock.consumer --run-dir " in lines[1]
    assert "CUDA_VISIBLE_DEVICES=1 " in lines[7]
    assert "--connect tcp://127.0.0.1:5599" in lines[7]
    assert not (tmp_path / "run").exists()


def test_a_dry_run_names_no_address_that_cannot_be_dialled(capsys: pytest.CaptureFixture[str]) -> None:
    for endpoint, dialled in (("tcp://*:5599", "tcp://127.0.0.1:5599"), ("tcp://127.0.0.1:0", "tcp://127.0.0.1:PORT")):
        assert dispatch(["up", "--train", f"--stream.endpoint {endpoint} --stream.insecure", "--dry-run"]) == 0
        shown = capsys.readouterr().out
        assert f"--connect {dialled} " in shown
        assert shown.startswith("# PORT") == dialled.endswith("PORT")


def test_two_on_one_folder_do_not_mix_their_logs(tmp_path: Path) -> None:
    with Logs(tmp_path, 10, keeps=False, shows=False) as first:
        first.of("rank-0")("a line")
        with pytest.raises(RunError, match=r"another penstock up has its logs in .*/logs"):
            Logs(tmp_path, 10, keeps=False, shows=False)
        assert first.last_lines("rank-0", 1) == ["a line"]
    with Logs(tmp_path, 10, keeps=False, shows=False) as second:
        assert second.last_lines("rank-0", 1) == []


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--producers", "4", "--producer-devices", "0-5"], "--producers must be left out beside a list of devices"),
        (["--ranks=1", "--trainer-devices", "6,7"], "--ranks must be left out beside a list of devices"),
        (["--overwrite", "--resume"], "overwrite and resume exclude each other"),
        (["--ranks", "0"], "--ranks: ranks must be >= 1, got 0"),
        (["--config", "dmo"], "no such preset; did you mean 'demo'"),
        (["--ranks", "two"], "--ranks: expected an integer, got 'two'"),
        (["--produce=--connect tcp://10.0.0.7:5599"], "produce: leave --connect out"),
        (["--produce=--key ann.key"], "produce: leave --key out; with `penstock up --keys DIR`"),
    ],
)
def test_a_mistake_is_one_line(argv: list[str], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        up.main([*argv, "--dry-run"])


def test_a_folder_that_holds_a_run_is_refused_before_its_logs_are_touched(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank-0.log").write_text("of another day")
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunError, match="is not empty; pass --overwrite, --resume, or another --run-dir"):
        up.main(["--train", f"--run-dir {tmp_path}", "--trainer-devices", "cpu"])
    assert (tmp_path / "logs" / "rank-0.log").read_text() == "of another day"


def test_the_first_line_says_what_is_started() -> None:
    made = Processes(UpConfig(trainer_devices="6,7", producer_devices="0-5", produce="--threads 3"), {})
    first = up.describe(made)
    assert first.startswith("2 ranks on GPU 6,7 with ")
    assert first.endswith(" each, 6 producers on GPU 0,1,2,3,4,5 with 3 threads each")
    one = Processes(UpConfig(trainer_devices="cpu", producers=0), {"OMP_NUM_THREADS": "2"})
    assert up.describe(one) == "1 rank"


def test_a_run_that_ended_early_says_how_to_go_on(tmp_path: Path) -> None:
    assert up.resume_hint(["--config", "demo"], tmp_path) is None
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.json").write_text(json.dumps({"step": 40}))
    argv = ["--config", "demo", "--overwrite", "--train", "--config demo --max-steps 60"]
    hint = "to go on from step 40: penstock up --config demo --train '--config demo --max-steps 60' --resume"
    assert up.resume_hint(argv, tmp_path) == hint
    assert up.resume_hint([*argv, "--resume"], tmp_path) == hint, "once is enough"
    assert up.resume_hint(argv, tmp_path, overwrites=True) == hint, "the command said it, and says it no more"
    of_file = up.resume_hint(["plan.yaml"], tmp_path, overwrites=True)
    assert of_file == "to go on from step 40: penstock up plan.yaml --no-overwrite --resume"
