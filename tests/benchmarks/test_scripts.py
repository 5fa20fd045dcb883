"""The benchmarks run, small, and their figures are what their names say."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def _run(name: str, figures: Path, *options: str, status: int = 0) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--json", str(figures), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == status, done.stderr
    return dict(json.loads(figures.read_text()))


@pytest.mark.slow
def test_transport_compares_the_sides_that_it_is_given(tmp_path: Path) -> None:
    sides = ("--sides", "penstock,raw_zmq,mp_queue", "--rounds", "1", "--seconds", "0.3")
    result = _run("transport", tmp_path / "figures.json", *sides)
    assert {"ratio_to_raw_zmq", "ratio_to_mp_queue", "gb_per_s", "cpu_us_per_image"} <= result.keys()
    assert set(result["sizes"]) == {"4x256x256x3", "4x512x512x3"}
    for by_side in result["sizes"].values():
        ours = by_side["penstock"]
        for side, row in by_side.items():
            assert row["gb_per_s"] > 0
            assert row["ratio"] == pytest.approx(ours["gb_per_s"] / row["gb_per_s"]), side
    assert result["gb_per_s"] == min(by_side["penstock"]["gb_per_s"] for by_side in result["sizes"].values())


def test_transport_says_what_it_does_not_know() -> None:
    command = [sys.executable, str(BENCHMARKS / "transport.py"), "--sides", "penstock,pigeons"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        "error: there is no side 'pigeons'; choose from penstock, raw_zmq, grpc, ray, mp_queue"
    ]


@pytest.mark.slow
def test_overlap_knows_its_bound_and_does_the_same_work_the_old_way(tmp_path: Path) -> None:
    result = _run("overlap", tmp_path / "figures.json", "--quick", "--seconds", "2")
    for row in result["cells"]:
        cell = row["cell"]
        bound = 1280 * min(1.0, cell["reuse"] * cell["ratio"])
        assert row["achieved"] == pytest.approx(row["images_per_s"] / bound)
        # A busy machine may be slower; nothing can be faster than its pace for long.
        assert 0.3 < row["achieved"] < 1.15
    assert result["worst_achieved"] == min(row["achieved"] for row in result["cells"])
    for row in (row for row in result["cells"] if row["old_way_s"] is not None):
        pace = 1280.0
        images = row["images_trained"]
        least_s = images / row["cell"]["reuse"] / (row["cell"]["ratio"] * pace) + images / pace
        assert row["old_way_s"] > 0.8 * least_s, "one after the other"


@pytest.mark.slow
def test_soak_measures_a_slope_and_says_where_it_is_not_flat(tmp_path: Path) -> None:
    """In so short a run the reservoir still fills, so the slope is real and the verdict is no."""
    result = _run("soak", tmp_path / "figures.json", "--groups", "3000", status=1)
    assert result["groups"] >= 3000
    assert result["flat"] is False
    assert result["slope_bytes_per_1000_groups"] > 50_000


@pytest.mark.slow
def test_loss_measures_the_same_function_on_all_sides(tmp_path: Path) -> None:
    result = _run("loss", tmp_path / "figures.json", "--sizes", "512,2048", "--rounds", "1", "--repeats", "1")
    assert [row["num_rows"] for row in result["rows"]] == [512, 2048]
    for row in result["rows"]:
        ours, public = row["sides"]["penstock"], row["sides"]["public"]
        assert row["speedup_vs_reference"] == pytest.approx(public["seconds"] / ours["seconds"])
        assert row["peak_memory_ratio"] == pytest.approx(ours["peak_bytes"] / public["peak_bytes"])
    assert result["speedup_vs_reference"] == min(row["speedup_vs_reference"] for row in result["rows"])
    # The public arithmetic must keep at least its two masks and its probabilities, float32 [N, N].
    assert result["rows"][1]["sides"]["public"]["peak_bytes"] > 3 * 4 * 2048**2
    assert result["rows"][1]["peak_memory_ratio"] < 1
