"""The comparison of stream and files runs, does equal work on both ways, and finds no image that the stream wrote."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "offline_vs_stream.py"
KEYS = {
    *("seconds_stream", "seconds_offline", "speedup", "knn_stream", "knn_offline"),
    *("knn_difference", "knn_difference_interval", "bytes_on_disk_stream", "bytes_on_disk_offline"),
    *("stream_no_slower", "stream_no_worse", "pixels_written_by_stream", "seeds", "environment"),
}


@pytest.mark.slow
@pytest.mark.long
def test_both_ways_do_the_same_work_and_only_one_fills_the_disk(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(SCRIPT), "--seeds", "1", "--steps", "6", "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    result = json.loads(figures.read_text())
    assert result.keys() >= KEYS
    (seed,) = result["seeds"]
    for way in ("stream", "offline"):
        assert seed[way]["steps"] == 6
        assert seed[way]["images_trained"] == 6 * 32 * 8
        assert 0 < seed[way]["knn"] < 1
        assert result[f"seconds_{way}"] > 0
    assert seed["stream"]["images_generated"] == seed["offline"]["images_generated"]
    assert result["pixels_written_by_stream"] == result["bytes_on_disk_stream"] == 0
    # A PNG of 32 x 32 pixels has at least its signature, header and end: 57 bytes.
    assert result["bytes_on_disk_offline"] > 57 * seed["offline"]["images_generated"]
    assert result["stream_no_worse"] is None
