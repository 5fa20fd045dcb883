"""What a sweep concludes from its arms, against SciPy and by hand."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from penstock.deploy.sweep_results import Outcome, Results, gather, read_outcome
from penstock.deploy.sweep_table import as_csv, table, verdict

GUIDANCE = {"1": [0.30, 0.34, 0.32], "2": [0.84, 0.88, 0.86], "3": [0.85, 0.87, 0.88], "8": [0.60, 0.61, 0.66]}


def _outcome(value: str, seed: int, **figures: Any) -> Outcome:
    usual = {"test": None, "validation": None, "rankme": None, "before": 0.14, "pixels": 0.6}
    return Outcome(value=value, seed=seed, **{**usual, "images": 9600, "steps": 900, "seconds": 200.0, **figures})


def _results(validation: Mapping[str, Sequence[float]], name: str = "guidance", gain: float = 0.02) -> Results:
    outcomes = [
        _outcome(value, seed, validation=accuracy, test=accuracy + gain)
        for value, accuracies in validation.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    return gather(name, list(validation), outcomes)


def test_means_and_intervals_are_those_of_scipy() -> None:
    for row in _results(GUIDANCE).rows:
        sample = np.array(GUIDANCE[row.value]) + 0.02
        low, high = stats.t.interval(0.95, 2, loc=sample.mean(), scale=stats.sem(sample))
        assert row.test is not None
        assert row.test.half_width is not None
        assert (row.test.mean, row.test.half_width) == pytest.approx((sample.mean(), (high - low) / 2))


def test_numbers_come_in_order_and_names_as_given() -> None:
    assert [row.value for row in _results({"10": [0.1], "2": [0.2], "1.5": [0.3]}).rows] == ["1.5", "2", "10"]
    assert [row.value for row in _results({"b": [0.1], "a": [0.2]}).rows] == ["b", "a"]


def test_the_best_is_chosen_on_validation_though_test_says_otherwise() -> None:
    outcomes = [_outcome("1", 0, validation=0.7, test=0.1), _outcome("2", 0, validation=0.6, test=0.9)]
    best = gather("guidance", ["1", "2"], outcomes).best
    assert best is not None
    assert best.row.value == "1"


@pytest.mark.parametrize(
    ("validation", "place"),
    [
        ({"1": [0.1], "2": [0.9], "3": [0.2]}, "inside"),
        ({"3": [0.2], "2": [0.1], "1": [0.9]}, "lower edge"),
        ({"9": [0.1], "10": [0.9]}, "upper edge"),
        ({"stablerep": [0.9], "simclr": [0.1]}, "unordered"),
    ],
)
def test_it_is_said_where_the_best_lies(validation: dict[str, list[float]], place: str) -> None:
    best = _results(validation).best
    assert best is not None
    assert best.place == place


def test_values_are_told_apart_by_a_paired_t_test() -> None:
    """SciPy's paired test gives p < 0.05 exactly where the 95% interval of the differences leaves out zero."""
    best = _results(GUIDANCE).best
    assert best is not None
    others = [value for value in GUIDANCE if value != best.row.value]
    alike = [v for v in others if stats.ttest_rel(GUIDANCE[best.row.value], GUIDANCE[v]).pvalue >= 0.05]
    assert best.not_told_apart == tuple(alike) == ("2",)


def test_one_seed_tells_nothing_apart_and_says_so() -> None:
    results = _results({"1": [0.3], "2": [0.31], "3": [0.1]})
    assert results.best is not None
    assert results.best.not_told_apart == ()
    lines = verdict(results, 3, 3)
    assert "One seed: no intervals, and the best may be luck; --seeds 0,1,2 gives them." in lines
    assert "±" not in table(results)


def test_the_verdict_says_choice_report_place_and_floors() -> None:
    lines = verdict(_results(GUIDANCE), 12, 12)
    assert lines[0] == "Best guidance: 3. Chosen on validation, reported on test: 88.7% ± 3.8."
    assert "It lies inside the range." in lines
    assert "Floors, on test: raw pixels 60.0%, before training 14.0%." in lines
    edge = verdict(_results({"1": [0.9], "2": [0.1]}), 4, 2)
    assert "It lies at the lower edge of the range: extend the range below 1." in edge
    assert "2 of 4 arms have finished; the same command goes on." in edge


def test_without_validation_nothing_is_chosen() -> None:
    results = gather("lr", ["1", "2"], [_outcome("1", 0, test=0.5), _outcome("2", 0, test=0.6)])
    assert results.best is None
    assert verdict(results, 2, 2)[0] == "No best value: no arm was validated; lower --evaluation.every-steps."


def test_a_value_without_a_finished_arm_has_no_row() -> None:
    results = gather("lr", ["1", "2"], [_outcome("2", 0, test=0.5)])
    assert [row.value for row in results.rows] == ["2"]
    empty = gather("lr", ["1", "2"], [])
    assert (empty.rows, empty.best, empty.pixels, empty.before) == ((), None, None, None)


def test_the_table_is_aligned_and_marks_the_best() -> None:
    lines = table(_results(GUIDANCE)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[0] for line in lines if "*" in line] == ["3"]
    assert "RankMe" not in lines[0]
    ranked = gather("lr", ["1"], [_outcome("1", 0, test=0.5, rankme=21.26)])
    assert "RankMe" in table(ranked)
    assert "21.3" in table(ranked)


def test_the_csv_has_a_line_a_value() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(_results(GUIDANCE)))))
    assert [row["guidance"] for row in rows] == ["1", "2", "3", "8"]
    assert [row["is_best"] for row in rows] == ["0", "0", "1", "0"]
    assert float(rows[0]["validation_mean"]) == pytest.approx(np.mean(GUIDANCE["1"]))
    assert rows[0]["rankme_mean"] == ""


# --- reading ----------------------------------------------------------------------------------------------------------


def _finished(folder: Path, **more: Any) -> None:
    knn = {"before": 0.13, "after": 0.8, "raw_scans_after": 0.9, "pixels": 0.6, "k": 20, "temperature": 0.07}
    summary = {"steps": 6, "seconds": 9.5, "images_generated": 128, "knn": knn, **more}
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    record = {"knn": [[3, 0.5], [6, 0.7]]}
    (folder / "checkpoint" / "state.json").write_text(json.dumps({"step": 6, "record": record}))


def test_a_finished_arm_is_read_from_its_folder(tmp_path: Path) -> None:
    _finished(tmp_path / "arm")
    expected = _outcome("2", 5, test=0.8, validation=0.7, before=0.13, images=128, steps=6, seconds=9.5)
    assert read_outcome(tmp_path / "arm", "2", 5) == expected


@pytest.mark.parametrize("more", [{"rankme": 21.5}, {"features": {"rankme": 21.5}}])
def test_a_rank_is_found_wherever_the_summary_has_it(tmp_path: Path, more: dict[str, Any]) -> None:
    _finished(tmp_path, **more)
    outcome = read_outcome(tmp_path, "2", 5)
    assert outcome is not None
    assert outcome.rankme == 21.5


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"steps": 3}'])
def test_an_unfinished_arm_gives_nothing(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    assert read_outcome(tmp_path, "2", 5) is None
