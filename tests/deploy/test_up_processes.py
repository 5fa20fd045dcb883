"""What each process of `penstock up` is started with, on machines that the test makes up."""

import sys
from pathlib import Path

import pytest

from penstock.config.load import load_config
from penstock.deploy import up_processes
from penstock.deploy.fleet_plan import PRESETS
from penstock.deploy.up_config import UpConfig
from penstock.deploy.up_processes import Processes
from penstock.protocol.errors import ConfigError
from penstock.telemetry import machine

TRAINER = [sys.executable, "-m", "penstock.consumer"]
PRODUCER = [sys.executable, "-m", "penstock.producer"]
ENDPOINT = "tcp://127.0.0.1:4242"


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Eight GPUs and 64 cores, but where a test has another number of either."""
    num_gpus, num_cores = getattr(request, "param", (8, 64))
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: ["NVIDIA H200, 143771 MiB, driver 570.86"] * num_gpus)
    monkeypatch.setattr(up_processes, "usable_cores", lambda: num_cores)


def processes(**asked: object) -> Processes:
    settings = {"train": "--groups-per-step 32", "produce": "--batch-images 8"} | asked
    return Processes(UpConfig(**settings), {})  # type: ignore[arg-type]


def test_each_rank_knows_its_place_and_sees_the_ranks_gpus() -> None:
    ranks = processes(trainer_devices="6,7", producer_devices="0-5").ranks()
    assert [rank.name for rank in ranks] == ["rank-0", "rank-1"]
    assert [rank.place for rank in ranks] == ["GPU 6", "GPU 7"]
    assert ranks[0].command == [*TRAINER, "--groups-per-step", "32", "--fleet.local-producers", "0"]
    for number, rank in enumerate(ranks):
        assert rank.env["CUDA_VISIBLE_DEVICES"] == "6,7"
        assert (rank.env["RANK"], rank.env["LOCAL_RANK"]) == (str(number), str(number))
        assert (rank.env["WORLD_SIZE"], rank.env["LOCAL_WORLD_SIZE"]) == ("2", "2")
        assert "ACCELERATE_USE_CPU" not in rank.env
    assert ranks[0].env["MASTER_PORT"] == ranks[1].env["MASTER_PORT"]


def test_a_rank_alone_is_an_ordinary_trainer() -> None:
    (rank,) = processes(trainer_devices="7").ranks()
    assert rank.env == {"CUDA_VISIBLE_DEVICES": "7", "OMP_NUM_THREADS": "32"}


def test_each_producer_sees_its_own_gpu_alone() -> None:
    made = processes(trainer_devices="6,7", producer_devices="0-5").producers(ENDPOINT)
    assert [each.name for each in made] == [f"producer-{number}" for number in range(6)]
    assert [each.env["CUDA_VISIBLE_DEVICES"] for each in made] == ["0", "1", "2", "3", "4", "5"]
    own = ["--connect", ENDPOINT, "--devices", "", "--device", "cuda", "--name", "producer-3"]
    assert made[3].command == [*PRODUCER, "--batch-images", "8", *own]
    assert made[3].place == "GPU 3"


def test_processes_on_the_cpu_see_no_gpu() -> None:
    made = processes(trainer_devices="cpu", producer_devices="cpu,cpu")
    assert made.ranks()[0].env["CUDA_VISIBLE_DEVICES"] == ""
    assert made.ranks()[0].env["ACCELERATE_USE_CPU"] == "1"
    for producer in made.producers(ENDPOINT):
        assert producer.env["CUDA_VISIBLE_DEVICES"] == ""
        assert producer.command[-4:-1] == ["--device", "cpu", "--name"]


def test_a_device_that_the_producers_settings_name_is_left_to_them() -> None:
    (on_gpu,) = processes(produce="--device cuda:3").producers(ENDPOINT)
    assert "CUDA_VISIBLE_DEVICES" not in on_gpu.env
    assert (on_gpu.place, on_gpu.command[-2:]) == ("cuda:3", ["--name", "producer-0"])
    (on_cpu,) = processes(produce="--device cpu").producers(ENDPOINT)
    assert on_cpu.env["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("_machine", "asked", "threads"),
    [
        ((8, 64), {"trainer_devices": "6,7", "producer_devices": "0-5"}, (8, 8)),
        ((0, 2), {"producers": 2}, (1, 1)),
        ((0, 16), {"producers": 3}, (4, 4)),
        # What is left of the cores beside producers with a number of their own.
        ((0, 16), {"producers": 4, "ranks": 2, "produce": "--threads 1"}, (6, 0)),
        ((0, 2), {"producers": 2, "produce": "--threads 1"}, (1, 0)),
    ],
    indirect=["_machine"],
)
def test_the_cores_are_divided_among_all(_machine: None, asked: dict[str, object], threads: tuple[int, int]) -> None:
    made = processes(**asked)
    assert (made.rank_threads, made.producer_threads) == threads
    assert made.ranks()[0].env["OMP_NUM_THREADS"] == str(threads[0])
    assert made.producers(ENDPOINT)[0].env.get("OMP_NUM_THREADS", "0") == str(threads[1])


def test_a_number_of_threads_that_the_user_chose_stays() -> None:
    made = Processes(UpConfig(producers=2), {"OMP_NUM_THREADS": "5"})
    assert not any("OMP_NUM_THREADS" in each.env for each in [*made.ranks(), *made.producers(ENDPOINT)])


def test_each_producer_serves_its_metrics_at_the_next_port() -> None:
    made = processes(producers=2, produce="--metrics 9410 --name ann").producers(ENDPOINT)
    assert [each.name for each in made] == ["ann-0", "ann-1"]
    assert [each.command[-2:] for each in made] == [["--metrics", "127.0.0.1:9410"], ["--metrics", "127.0.0.1:9411"]]
    with pytest.raises(ConfigError, match="port 65535 \\+ 1 is beyond 65535"):
        processes(producers=2, produce="--metrics 65535")


def test_keys_go_to_the_ranks_and_their_own_to_the_producers(tmp_path: Path) -> None:
    made = processes(keys=str(tmp_path))
    assert made.train.stream.keys == str(tmp_path)
    (producer,) = made.producers(ENDPOINT)
    assert producer.command[producer.command.index("--key") + 1] == str(tmp_path / "trainer.key")
    (producer,) = processes(train=f"--stream.keys {tmp_path}").producers(ENDPOINT)
    assert "--key" in producer.command
    (producer,) = processes().producers(ENDPOINT)
    assert "--key" not in producer.command


@pytest.mark.parametrize(
    ("asked", "resume", "overwrite"),
    [
        ({"resume": True}, True, False),
        ({"resume": True, "train": "--overwrite"}, True, False),
        ({"overwrite": True, "train": "--resume"}, False, True),
        ({"train": "--resume"}, True, False),
    ],
)
def test_a_life_of_a_plan_may_resume_or_overwrite(asked: dict[str, object], resume: bool, overwrite: bool) -> None:
    made = processes(**asked)
    assert (made.train.resume, made.train.overwrite) == (resume, overwrite)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"train": "--max-stepz 3"}, "unknown flag --max-stepz; did you mean '--max-steps'"),
        ({"produce": "--batch-images 0"}, "batch_images must be >= 1, got 0"),
        ({"produce": "--devices all"}, "leave --devices out; `penstock up --producer-devices` says"),
        ({"train": "--filter.min-score 0.5"}, "train filters images, and produce names no --scorer"),
        (
            {"train": "--groups-per-step 8", "ranks": 3},
            "groups_per_step must be a multiple of the number of ranks \\(3",
        ),
        ({"train": "--run-dir 'a"}, "train is not what a shell would read: No closing quotation"),
    ],
)
def test_a_mistake_is_found_before_anything_starts(asked: dict[str, object], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        processes(**asked)


@pytest.mark.parametrize("_machine", [(0, 2)], indirect=True)
def test_the_demo_is_two_producers_and_a_rank(_machine: None) -> None:
    config = load_config(UpConfig, ["--config", "demo"], preset_dir=PRESETS, prog="penstock up", description="")
    made = Processes(config, {})
    assert len(made.ranks()) == 1
    assert len(made.producers(ENDPOINT)) == 2
    assert made.ranks()[0].env["OMP_NUM_THREADS"] == "1"


def test_a_command_can_be_typed_as_it_is_shown() -> None:
    (producer,) = processes(trainer_devices="cpu", producer_devices="cpu", produce="--name 'a b'").producers(ENDPOINT)
    shown = producer.in_a_shell
    assert shown.startswith("OMP_NUM_THREADS=32 CUDA_VISIBLE_DEVICES='' ")
    assert shown.endswith("--device cpu --name 'a b-0'")
