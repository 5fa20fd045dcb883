"""What the log says of an engine's work, and how long that is."""

import pytest

from penstock.producer import work as work_module
from penstock.producer.work import Work


def test_nothing_made_is_said_plainly() -> None:
    assert Work().describe() == "no image"


def test_rates_are_per_second_of_work_and_shares_of_what_the_device_reaches() -> None:
    work = Work(images=200, flops=4e14, matrix_flops_per_s=1e14, seconds=10.0, diversity=0.734)
    assert work.describe() == (
        "200 images in 10 s of work: 20 images/s, 2 TFLOP an image, 40 TFLOP/s "
        "(40% of what matrix products reach here); diversity within prompts 0.73"
    )


def test_what_is_not_known_is_left_out() -> None:
    assert Work(images=3, seconds=2.0).describe() == "3 images in 2 s of work: 1.5 images/s"


class Clock:
    """Seconds that the test lets pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(work_module.time, "monotonic", lambda: self.now)


def test_time_counts_while_a_batch_is_made_and_is_never_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of minutes is no minutes of idleness with a lump behind them."""
    clock, work = Clock(monkeypatch), Work()
    assert work.busy_s == 0
    work.begin()
    clock.now += 40
    assert (work.seconds, work.busy_s) == (0, 40)
    assert (work.status.busy_s, work.status.unfinished_s, work.status.worked_s) == (0, 40, 40)
    work.end()
    clock.now += 100  # it waits for tickets
    assert (work.seconds, work.busy_s, work.status.unfinished_s) == (40, 40, 0)


def test_time_in_which_two_batches_are_under_way_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, work = Clock(monkeypatch), Work()
    work.begin()
    clock.now += 3
    work.begin()
    clock.now += 2
    work.end()
    assert (work.seconds, work.busy_s) == (5, 5)
    clock.now += 4
    assert (work.seconds, work.busy_s) == (5, 9)
    work.end()
    assert (work.seconds, work.busy_s) == (9, 9)
