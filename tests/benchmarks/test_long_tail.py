"""The long tail's benchmark: lists of 1 : 50, arms that differ in their balance alone, figures of the worst digit."""

import importlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from penstock.config.load import load_config
from penstock.consumer.config import TrainConfig
from penstock.consumer.prompts.opening import open_source

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def long_tail(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("long_tail")


def _config(flags: list[str]) -> TrainConfig:
    return load_config(TrainConfig, flags, preset_dir=ROOT / "consumer" / "presets", prog="test", description="")


def _arms(long_tail: ModuleType, work: Path) -> list[Any]:
    kinds = (long_tail.STABLEREP, long_tail.SUPERVISED)
    return [long_tail._arm(kind, balance, work) for kind in kinds for balance in long_tail.BALANCES]


def test_the_list_has_a_tail_of_one_to_fifty_whose_digits_change_with_the_seed(
    long_tail: ModuleType, tmp_path: Path
) -> None:
    orders = set()
    for seed in range(5):
        long_tail.write_list(tmp_path, seed)
        lines = long_tail.caption_list(tmp_path, seed).read_text().splitlines()
        counts = Counter(line.split("\t")[0] for line in lines)
        assert max(counts.values()) == 50 * min(counts.values())
        ratios = np.diff(np.log(sorted(counts.values())))
        assert np.all(np.abs(ratios - np.log(50) / 9) < 0.15), "geometric, to whole captions"
        assert all(word in caption.split() for word, caption in (line.split("\t") for line in lines))
        assert dict(counts) == long_tail.digit_counts(seed)
        orders.add(tuple(long_tail.digit_counts(seed)))
    assert len(orders) == 5


def test_arms_of_an_objective_differ_in_their_balance_alone(long_tail: ModuleType, tmp_path: Path) -> None:
    long_tail.write_list(tmp_path, 3)
    budget = long_tail.Budget()
    by_objective: dict[str, list[TrainConfig]] = {}
    for arm in _arms(long_tail, tmp_path):
        config = _config(arm.flags(budget, 3))
        assert config.prompts.balance in arm.name
        assert len(open_source(config.prompts, config.seed).concepts) == 10
        by_objective.setdefault(config.objective.name, []).append(config)
    for configs in by_objective.values():
        balances = [config.prompts.balance for config in configs]
        assert balances == ["natural", "sqrt", "uniform"]
        others = {repr(config).replace(f"balance={config.prompts.balance!r}", "") for config in configs}
        assert len(others) == 1


def _trained(long_tail: ModuleType, work: Path, accuracies: dict[str, list[float]]) -> dict[str, list[Any]]:
    """Arms as if trained and measured: the seed's rarest digit has the given accuracy, all others .9."""
    trainings: dict[str, list[Any]] = {}
    for arm in _arms(long_tail, work):
        for seed, accuracy in enumerate(accuracies[arm.balance]):
            training = long_tail.Training(arm, seed, long_tail.Budget(), work)
            training.run_dir.mkdir(parents=True)
            words = list(long_tail.digit_counts(seed))
            classes = [{"name": word, "accuracy": 0.9, "num": 72} for word in words[:-1]]
            classes.append({"name": words[-1], "accuracy": accuracy, "num": 72})
            measured = {"accuracy": 0.5, "classes": classes}
            tasks = [
                {"name": name, "knn": measured, "linear_probe": measured}
                for name in ("toyworld, rendered", "toyworld, raw scans")
            ]
            (training.run_dir / "report.json").write_text(json.dumps({"tasks": tasks}))
            summary = {"images_generated": 2176, "concepts": {"groups": {words[0]: 30, words[-1]: 10}}}
            (training.run_dir / "summary.json").write_text(json.dumps(summary))
            trainings.setdefault(arm.name, []).append(training)
    return trainings


ACCURACIES = {"natural": [0.2, 0.3, 0.4], "sqrt": [0.3, 0.35, 0.5], "uniform": [0.5, 0.4, 0.45]}


def test_gains_are_taken_seed_by_seed(
    long_tail: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainings = _trained(long_tail, tmp_path, ACCURACIES)
    measured = long_tail.collect(trainings)
    row = measured["knn"]["arms"]["stablerep natural"]
    assert row["worst"]["mean"] == pytest.approx(0.3)
    assert row["mean"]["mean"] == pytest.approx((9 * 0.9 + 0.3) / 10)
    assert row["rare"]["mean"] == pytest.approx((2 * 0.9 + 0.3) / 3)
    gain = measured["knn"]["gains"]["stablerep uniform"]
    oracle = stats.ttest_rel(ACCURACIES["uniform"], ACCURACIES["natural"]).confidence_interval(0.95)
    assert gain["worst"]["seeds"] == pytest.approx([0.3, 0.1, 0.05])
    assert gain["worst"]["interval"] == pytest.approx([oracle.low, oracle.high])
    assert gain["bar"] == {"at_least": 0.1, "met": True, "clear": False}
    assert "bar" not in measured["knn"]["gains"]["stablerep sqrt"]
    long_tail.print_tables(measured)
    assert "knn, stablerep uniform: +15.0%, met, within the luck of the seeds" in capsys.readouterr().out
    shares = long_tail.shares(trainings["stablerep natural"])
    assert shares == [0.75, *[0.0] * 8, 0.25]


def test_a_gain_below_the_bar_is_missed(long_tail: ModuleType, tmp_path: Path) -> None:
    accuracies = ACCURACIES | {"uniform": [0.29, 0.39, 0.49]}
    measured = long_tail.collect(_trained(long_tail, tmp_path, accuracies))
    assert measured["linear_probe"]["gains"]["supervised uniform"]["bar"]["met"] is False


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--seeds", "0"], "--seeds must be >= 1"),
        (["--first-seed", "-1"], "--first-seed >= 0"),
        (["--images", "300"], "--images must be a multiple of 256, got 300"),
    ],
)
def test_bad_options_are_one_line(
    options: list[str], error: str, long_tail: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["long_tail.py", *options])
    with pytest.raises(Exception, match=error):
        long_tail.main()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)  # two trainings and a generator that loads, on a busy machine
def test_the_quick_benchmark_runs_and_its_groups_are_balanced(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "long_tail.py"), "--quick", "--images", "256", "--steps", "3"]
    command += ["--work", str(tmp_path / "work"), "--json", str(tmp_path / "tail.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    shares = json.loads((tmp_path / "tail.json").read_text())["settings"]["shares"]
    assert max(shares["stablerep uniform"]) - min(shares["stablerep uniform"]) < 0.05
    assert shares["stablerep natural"][0] > 0.25 > 0.05 > shares["stablerep natural"][-1]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_uniform_balance_raises_the_worst_digit_by_ten_points(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "long_tail.py"),
        "--quick",
        "--steps",
        "900",
        "--first-seed",
        "1",
    ]
    command += ["--work", str(tmp_path / "work"), "--json", str(tmp_path / "tail.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "tail.json").read_text())["measured"]
    assert measured["knn"]["gains"]["stablerep uniform"]["worst"]["mean"] >= 0.10
