"""The curve of a sweep is a picture of a sensible size, whatever was measured."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from penstock.telemetry import sweep_picture
from penstock.telemetry.picture import KNN_COLOR
from penstock.telemetry.seed_interval import SeedInterval, seed_interval
from penstock.telemetry.sweep_picture import Point, SweepCurve, draw_sweep


def _curve(values: Sequence[str], seeds: int = 3, best: str | None = None, name: str = "guidance") -> SweepCurve:
    tests = [[0.3 + 0.1 * place + 0.01 * seed for seed in range(seeds)] for place in range(len(values))]
    points = [
        Point(value=value, test=seed_interval(test), validation=seed_interval(test[:1]))
        for value, test in zip(values, tests, strict=True)
    ]
    floors = [("raw pixels", 0.6), ("before training", 0.14)]
    return SweepCurve(name=name, points=points, best=best, floors=floors, notes=["Equal.", "One seed."])


def test_the_file_is_a_png_of_a_sensible_size(tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    draw_sweep(path, _curve(["1", "1.5", "2", "3", "5", "8"], best="3"))
    assert path.read_bytes().startswith(b"\x89PNG")
    assert 10_000 < path.stat().st_size < 500_000
    height, width, _ = imread(path).shape
    assert 1000 <= width <= 2000
    assert 600 <= height <= 1200


@pytest.mark.parametrize(
    "curve",
    [
        _curve(["2"], seeds=1),
        _curve(["stablerep", "simclr"], best="simclr"),
        _curve(["0", "0.5"], seeds=2),
        _curve(["a $x_{$", "b"], name="prompts.source $"),
        SweepCurve(
            name="m",
            points=[Point(value="1", test=SeedInterval(0.99, 0.02, 2), validation=None)],
            best="1",
            floors=[],
            notes=[],
        ),
    ],
    ids=["one point", "names", "zero", "dollars", "bare"],
)
def test_whatever_was_measured_makes_a_picture(tmp_path: Path, curve: SweepCurve) -> None:
    draw_sweep(tmp_path / "curve.png", curve)
    assert (tmp_path / "curve.png").stat().st_size > 5_000


def _axes(curve: SweepCurve) -> tuple[Axes, list[float]]:
    axes = Figure().subplots()
    return axes, sweep_picture._place(axes, curve)


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        (["1", "2", "4", "8"], "log"),
        (["1", "2", "3"], "linear"),
        (["0", "1", "100"], "linear"),
        (["-1", "9"], "linear"),
    ],
)
def test_values_that_span_about_a_decade_stand_on_a_logarithmic_axis(values: list[str], scale: str) -> None:
    axes, places = _axes(_curve(values))
    assert axes.get_xscale() == scale
    assert places == [float(value) for value in values]
    assert [label.get_text() for label in axes.get_xticklabels()] == values


def test_names_stand_side_by_side() -> None:
    assert _axes(_curve(["stablerep", "simclr", "clip"]))[1] == [0, 1, 2]


def test_the_best_value_is_marked_where_it_stands(tmp_path: Path) -> None:
    def ink(best: str | None) -> np.ndarray:
        draw_sweep(tmp_path / "curve.png", _curve(["1", "2", "3"], best=best))
        pixels = imread(tmp_path / "curve.png")[..., :3]
        return np.abs(pixels - to_rgb(KNN_COLOR)).max(-1) < 0.02

    more = np.nonzero((ink("3") & ~ink(None)).any(axis=0))[0]
    left = np.nonzero((ink("1") & ~ink(None)).any(axis=0))[0]
    assert more.min() > left.max()


def test_no_points_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="points must not be empty"):
        draw_sweep(tmp_path / "curve.png", _curve([]))
