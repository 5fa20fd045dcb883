"""The tables of the papers' shapes: equal budgets, arms that differ in one thing, statistics that scipy agrees with."""

import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from penstock.config.load import load_config
from penstock.consumer.config import TrainConfig
from penstock.producer.engine import Made, Pending
from penstock.producer.work import Work
from penstock.protocol.tickets import Manifest, Recipe, Ticket

ROOT = Path(__file__).resolve().parents[2]


def _load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module(name)


@pytest.fixture
def arms(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _load("paper.arms", monkeypatch)


@pytest.fixture
def verdict(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _load("paper.verdict", monkeypatch)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _load("paper.runs", monkeypatch)


@pytest.fixture
def paper_tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _load("paper_tables", monkeypatch)


@pytest.fixture
def image_memory(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _load("paper.image_memory", monkeypatch)


def _config(flags: Sequence[str]) -> TrainConfig:
    presets = ROOT / "consumer" / "presets"
    return load_config(TrainConfig, flags, preset_dir=presets, prog="test", description="")


def _all_arms(arms: ModuleType) -> list[Any]:
    return [arm for unit in arms.units(full=True) for arm in unit]


def test_every_arm_has_the_same_images_steps_and_rows(arms: ModuleType) -> None:
    budget = arms.Budget()
    for arm in _all_arms(arms):
        config = _config(arm.flags(budget, 1))
        made = config.generator.images_per_group
        assert config.capacity_groups * made == budget.num_images, arm.name
        assert (config.capacity_groups + config.stream.window_groups) * made == budget.num_generated, arm.name
        assert config.rows_per_step == budget.rows_per_step, arm.name
        assert config.max_steps == budget.num_steps
        assert config.order == "ticket"
        # A step draws one group of every lane: none can have been used up before the last step.
        assert config.reservoir.reuse >= config.max_steps
        assert config.capacity_groups % config.groups_per_step == 0, arm.name


def test_arms_of_a_guidance_and_m_differ_in_nothing_but_what_is_learned_from_them(arms: ModuleType) -> None:
    budget = arms.Budget()
    same = [arm for arm in _all_arms(arms) if (arm.guidance_scale, arm.images_per_group) == (2.0, 4)]
    assert {arm.objective for arm in same} == {"stablerep", "stablerep+", "simclr", "clip", "synclr", "supervised"}
    generators = {_config(arm.flags(budget, 2)).generator for arm in same}
    assert len(generators) == 1


def test_the_tables_hold_every_point_that_they_promise_once(arms: ModuleType) -> None:
    names = [arm.name for arm in _all_arms(arms)]
    assert len(names) == len(set(names))
    guided = {
        f"{objective} w={w} m=4" for objective in ("stablerep", "simclr") for w in ("1", "1.5", "2", "3", "5", "8")
    }
    sizes = {f"stablerep w=2 m={m}" for m in (1, 2, 4, 8)}
    assert set(names) == guided | sizes | {f"{name} w=2 m=4" for name in ("stablerep+", "clip", "synclr", "supervised")}


def test_the_quick_tables_are_the_first_row(arms: ModuleType) -> None:
    assert [[arm.name for arm in unit] for unit in arms.units(full=False)] == [["stablerep w=2 m=4", "simclr w=2 m=4"]]


def test_the_interval_of_the_mean_is_students(verdict: ModuleType) -> None:
    values = [0.71, 0.78, 0.74]
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert verdict.interval(values) == pytest.approx(expected)
    assert verdict.interval([0.7]) is None


def _rows(arms: ModuleType) -> dict[str, list[float]]:
    return {arm.name: [0.6, 0.7] for arm in _all_arms(arms)} | {"random init": [0.2, 0.2], "pixels": [0.55, 0.55]}


def test_differences_are_taken_seed_by_seed(arms: ModuleType, verdict: ModuleType) -> None:
    rows = _rows(arms) | {arms.STABLEREP.name: [0.7, 0.9, 0.8], arms.SIMCLR.name: [0.6, 0.81, 0.72]}
    rows = {name: values if len(values) == 3 else [*values, values[0]] for name, values in rows.items()}
    difference = verdict.summarise(rows)["differences"][f"{arms.STABLEREP.name} - {arms.SIMCLR.name}"]
    oracle = stats.ttest_rel(rows[arms.STABLEREP.name], rows[arms.SIMCLR.name]).confidence_interval(0.95)
    assert difference["seeds"] == pytest.approx([0.1, 0.09, 0.08])
    assert difference["interval"] == pytest.approx([oracle.low, oracle.high])


@pytest.mark.parametrize(("lead", "met"), [(0.0501, True), (0.0499, False), (-0.2, False)])
def test_stablerep_must_lead_simclr_by_five_points(
    lead: float, met: bool, arms: ModuleType, verdict: ModuleType
) -> None:
    rows = _rows(arms)
    rows[arms.STABLEREP.name] = [value + lead for value in rows[arms.SIMCLR.name]]
    (bar,) = [bar for bar in verdict.summarise(rows)["bars"] if "by 5 points" in bar["bar"]]
    assert bar["met"] is met
    assert bar["measured"] == pytest.approx(lead)


@pytest.mark.parametrize(("best", "met"), [(1.0, False), (1.5, True), (5.0, True), (8.0, False)])
def test_a_best_guidance_at_an_end_of_the_range_is_not_inside_it(
    best: float, met: bool, arms: ModuleType, verdict: ModuleType
) -> None:
    rows = _rows(arms)
    rows[arms.with_guidance(arms.STABLEREP, best).name] = [0.8, 0.75]
    summary = verdict.summarise(rows)
    (bar,) = [bar for bar in summary["bars"] if bar["table"] == "c"]
    assert (bar["measured"], bar["met"]) == (best, met)
    curve = summary["guidance"]["stablerep"]
    assert curve["best_by_seed"] == [best, best]
    for end in ("1", "8"):
        seeds = [0.0, 0.0] if float(end) == best else [0.8 - 0.6, 0.75 - 0.7]
        assert curve["best_above_ends"][end]["seeds"] == pytest.approx(seeds)


def test_what_was_not_run_is_left_out(arms: ModuleType, verdict: ModuleType) -> None:
    quick = {name: values for name, values in _rows(arms).items() if name in (arms.STABLEREP.name, arms.SIMCLR.name)}
    summary = verdict.summarise(quick | {"random init": [0.2, 0.2], "pixels": [0.5, 0.5]})
    assert {bar["table"] for bar in summary["bars"]} == {"a"}
    assert summary["guidance"]["stablerep"] is None


def test_nothing_is_started_where_all_is_done(arms: ModuleType, runs: ModuleType, tmp_path: Path) -> None:
    training = runs.Training(arms.SIMCLR, 3, arms.Budget(), tmp_path)
    training.run_dir.mkdir(parents=True)
    (training.run_dir / "flags.json").write_text(json.dumps(training.flags))
    assert runs.train_all([[training]]) == 0


def test_a_training_with_other_settings_is_done_again(arms: ModuleType, runs: ModuleType, tmp_path: Path) -> None:
    budget = arms.Budget(num_steps=10)
    training = runs.Training(arms.SIMCLR, 3, budget, tmp_path)
    assert not training.is_done
    training.run_dir.mkdir(parents=True)
    (training.run_dir / "flags.json").write_text(json.dumps(training.flags))
    assert training.is_done
    assert not runs.Training(arms.SIMCLR, 3, arms.Budget(num_steps=11), tmp_path).is_done
    assert not runs.Training(arms.SIMCLR, 4, budget, tmp_path).is_done


def _report(path: Path, knn: float) -> None:
    """A report as `penstock evaluate` writes it, of kNN `knn` on rendered scans; other figures differ from it."""
    names = {"toyworld, rendered": 0.0, "toyworld, raw scans": 0.1}
    tasks = [
        {"name": name, "knn": {"accuracy": knn + more}, "linear_probe": {"accuracy": knn + more + 0.05}}
        for name, more in names.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"tasks": tasks}))


def _all_trainings(arms: ModuleType, runs: ModuleType, work: Path, made: int) -> list[list[Any]]:
    """Every arm with two seeds, as if trained and measured: kNN .5 and .7."""
    budget = arms.Budget()
    trainings = [[runs.Training(arm, seed, budget, work) for seed in (0, 1)] for arm in _all_arms(arms)]
    for by_seed in trainings:
        for training, knn in zip(by_seed, (0.5, 0.7), strict=True):
            _report(training.run_dir / "report.json", knn)
            (training.run_dir / "summary.json").write_text(json.dumps({"images_generated": made}))
    for seed in (0, 1):
        _report(work / f"seed{seed}" / "random_init" / "report.json", 0.2)
        (work / f"seed{seed}" / "random_init" / "config.json").touch()
    _report(work / "pixels_report.json", 0.55)
    return trainings


def test_the_tables_hold_four_measures_of_every_arm_and_floor_and_can_be_drawn(
    arms: ModuleType, runs: ModuleType, paper_tables: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainings = _all_trainings(arms, runs, tmp_path, made=2048 + 128)
    measured = paper_tables.collect(trainings, tmp_path)
    shifts = {"knn": 0.0, "linear_probe": 0.05, "knn_raw_scans": 0.1, "linear_probe_raw_scans": 0.15}
    assert measured.keys() == shifts.keys()
    for measure, shift in shifts.items():
        rows = measured[measure]["arms"]
        assert rows.keys() == {arm.name for arm in _all_arms(arms)} | {"random init", "pixels"}
        assert rows[arms.CLIP.name]["seeds"] == pytest.approx([0.5 + shift, 0.7 + shift])
        assert rows["pixels"]["mean"] == pytest.approx(0.55 + shift)
    paper_tables.print_tables(measured)
    printed = capsys.readouterr().out
    assert "stablerep w=2 m=4 above simclr w=2 m=4 by 5 points: +0.0%, MISSED" in printed
    paper_tables.draw(tmp_path / "tables.png", measured)
    assert (tmp_path / "tables.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("made", [2048 - 4, 2048 + 128 + 4])
def test_an_arm_that_had_more_or_fewer_images_than_the_others_gives_no_table(
    made: int, arms: ModuleType, runs: ModuleType, paper_tables: ModuleType, tmp_path: Path
) -> None:
    trainings = _all_trainings(arms, runs, tmp_path, made=made)
    with pytest.raises(Exception, match=f"2048 to 2176 images were to be made, got {made}"):
        paper_tables.collect(trainings, tmp_path)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--seeds", "0"], "--seeds must be >= 1, --steps >= 1"),
        (["--images", "300"], "--images must be a multiple of 256, got 300"),
        (["--figure", "x.png"], "--figure draws all tables: give --full too"),
    ],
)
def test_bad_options_are_one_line(
    options: list[str], error: str, paper_tables: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["paper_tables.py", *options])
    with pytest.raises(Exception, match=f"^{error}$"):
        paper_tables.main()


@pytest.mark.slow
@pytest.mark.timeout(600)  # two trainings and a generator that loads, on a busy machine
def test_the_quick_tables_run_and_do_not_train_twice(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "paper_tables.py"), "--seeds", "1", "--images", "256"]
    command += ["--steps", "3", "--work", str(tmp_path / "work"), "--json", str(tmp_path / "tables.json")]
    for is_again in (False, True):
        done = subprocess.run(command, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        assert ("stablerep w=2 m=4" in done.stderr) is not is_again
        result = json.loads((tmp_path / "tables.json").read_text())
        assert result["settings"]["images_generated"] == 256 + 128
        assert 0 < result["measured"]["knn"]["arms"]["simclr w=2 m=4"]["mean"] < 1
        assert result["measured"]["knn"]["bars"][0]["interval"] is None


class _CountingEngine:
    """Makes images that tell their seed, and counts them."""

    def __init__(self) -> None:
        self.work = Work()
        self.num_loaded = 0
        self.manifest = Manifest(
            model="counting",
            model_digest="1196",
            scheduler="none",
            dtype="float32",
            backend="eager",
            device="cpu",
            batch_images=8,
            versions={},
        )

    def load(self) -> None:
        self.num_loaded += 1

    def company(self, ticket: Ticket) -> str:
        return "engine"

    def generate(self, tickets: Sequence[Ticket]) -> Pending:
        made: list[Made] = []
        for ticket in tickets:
            seeds = np.array(ticket.recipe.image_seeds, dtype=np.uint64)
            made.append(
                np.broadcast_to((seeds % 251).astype(np.uint8)[:, None, None, None], ticket.recipe.shape).copy()
            )
            self.work.images += len(seeds)
        return lambda: made


def _ticket(index: int, num_images: int, guidance_scale: float = 2.0) -> Ticket:
    recipe = Recipe(
        prompt=f"number {index}",
        seed=index,
        num_images=num_images,
        guidance_scales=(guidance_scale,),
        num_inference_steps=1,
        scheduler="default",
        height=8,
        width=8,
        model_digest="1196",
    )
    return Ticket(index=index, rank=0, recipe=recipe)


def test_an_image_is_made_once_and_a_smaller_group_begins_a_larger_one(image_memory: ModuleType) -> None:
    engine = _CountingEngine()
    remembering = image_memory.RememberingEngine(engine)
    remembering.load()
    remembering.load()
    assert engine.num_loaded == 1
    for num_images, made_in_all in ((2, 2), (4, 6), (2, 6), (4, 6), (1, 6)):
        (images,) = remembering.generate([_ticket(5, num_images)])()
        (expected,) = _CountingEngine().generate([_ticket(5, num_images)])()
        np.testing.assert_array_equal(images, expected)
        assert engine.work.images == made_in_all


def test_another_guidance_is_another_image_and_what_is_remembered_keeps_its_own_company(
    image_memory: ModuleType,
) -> None:
    engine = _CountingEngine()
    remembering = image_memory.RememberingEngine(engine)
    assert remembering.company(_ticket(1, 2)) == "engine"
    remembering.generate([_ticket(1, 2)])()
    assert remembering.company(_ticket(1, 2)) != "engine"
    assert remembering.company(_ticket(1, 3)) == "engine"
    assert remembering.company(_ticket(1, 2, guidance_scale=3.0)) == "engine"
    remembering.generate([_ticket(1, 2), _ticket(2, 2)])()
    assert engine.work.images == 6, "a batch with something new is made whole"
