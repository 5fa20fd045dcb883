"""The watch over a rank's progress: when it speaks, and what it says."""

import logging
import threading

import pytest

from penstock.consumer.watch import ProgressWatch, StallClock


def test_it_speaks_after_the_stated_time_and_then_at_doubling_intervals() -> None:
    clock = StallClock(rank=3, report_s=30, step=12, now=1000.0)
    spoke = [second for second in range(300) if clock.look(1000.0 + second, None)]
    assert spoke == [30, 60, 120, 240]


def test_it_says_which_rank_waits_for_what_at_which_step() -> None:
    clock = StallClock(rank=1, report_s=30, step=0, now=0.0)
    assert clock.done(0, 5.0) is None
    assert clock.look(34.9, "ticket 812") is None
    text = clock.look(36.0, "ticket 812, held by ann for 28.1 s, running for 27.9 s")
    assert text == (
        "rank 1 has finished no step for 31 s: step 1 waits for ticket 812, held by ann for 28.1 s, running for 27.9 s"
    )


def test_a_rank_that_waits_for_no_group_says_so() -> None:
    text = StallClock(rank=0, report_s=1, step=7, now=0.0).look(2.0, None)
    assert text == (
        "rank 0 has finished no step for 2 s: step 7 waits for no group, but for the other ranks or its device"
    )


def test_it_says_when_it_moves_again_and_begins_anew() -> None:
    clock = StallClock(rank=0, report_s=10, step=4, now=0.0)
    assert clock.look(25.0, None)
    assert clock.done(4, 65.0) == "rank 0 goes on: step 4 is done after 65 s"
    assert clock.done(5, 66.0) is None
    assert clock.look(75.9, None) is None
    assert clock.look(76.0, None)


def test_a_look_that_comes_late_is_not_made_up_for() -> None:
    clock = StallClock(rank=0, report_s=10, step=0, now=0.0)
    assert clock.look(100.0, None)
    assert clock.look(101.0, None) is None
    assert clock.look(160.0, None)


def test_the_thread_looks_while_the_rank_waits_and_ends_with_it(caplog: pytest.LogCaptureFixture) -> None:
    looked = threading.Event()

    def waiting() -> str:
        if any("ticket 5" in record.message for record in caplog.records):
            looked.set()
        return "ticket 5, held by ann"

    with caplog.at_level(logging.WARNING), ProgressWatch(2, 0.02, 9, waiting) as watch:
        assert looked.wait(30)
        watch.done(9)
    assert "rank 2 has finished no step" in caplog.text
    assert "rank 2 goes on: step 9 is done" in caplog.text
    assert not any(thread.name == "penstock-watch" for thread in threading.enumerate())
