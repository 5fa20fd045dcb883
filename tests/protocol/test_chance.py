"""Names decide by lot: the same everywhere, even over many, and independent of each other."""

import subprocess
import sys

import numpy as np

from penstock.protocol.chance import draw


def test_another_process_draws_the_same() -> None:
    """Unlike `hash`, which is another in every process."""
    code = "from penstock.protocol.chance import draw; print(draw(3, 'producer-7'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert float(done.stdout) == draw(3, "producer-7")


def test_draws_are_even_and_independent() -> None:
    drawn = np.array([[draw(rank, f"producer-{number}") for number in range(1000)] for rank in range(8)])
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts, _ = np.histogram(drawn, bins=10, range=(0, 1))
    # 800 in each tenth, with a standard deviation of 27.
    assert np.abs(counts - 800).max() < 5 * 27
    assert np.abs(np.corrcoef(drawn) - np.eye(8)).max() < 5 / 1000**0.5


def test_names_do_not_run_into_each_other() -> None:
    assert draw("a", "bc") != draw("ab", "c")
