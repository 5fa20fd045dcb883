"""A pace: sleeps that end late do not add up, and nothing else is made up for."""

import pytest

from penstock.telemetry import pace as pace_module
from penstock.telemetry.pace import Pace


class _LateClock:
    """A clock whose sleeps last `late_s` too long."""

    def __init__(self, late_s: float) -> None:
        self.now = 0.0
        self._late_s = late_s

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds + self._late_s if seconds else 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _LateClock:
    clock = _LateClock(late_s=0.001)
    monkeypatch.setattr(pace_module, "time", clock)
    return clock


def test_what_a_sleep_lasts_too_long_the_next_lasts_less(clock: _LateClock) -> None:
    pace = Pace()
    for _ in range(100):
        with pace.lasting(0.003):
            pass
    assert clock.now == pytest.approx(0.3 + 0.001), "and not 0.4"


def test_what_is_done_meanwhile_is_part_of_the_time(clock: _LateClock) -> None:
    pace = Pace()
    for _ in range(100):
        with pace.lasting(0.003):
            clock.now += 0.002
    assert clock.now == pytest.approx(0.3 + 0.001)


def test_what_passes_in_between_is_made_up_by_none(clock: _LateClock) -> None:
    pace = Pace()
    for _ in range(100):
        with pace.lasting(0.003):
            pass
        clock.now += 0.005
    assert clock.now == pytest.approx(0.3 + 0.5 + 0.001)


def test_a_long_stop_is_no_debt_for_ever(clock: _LateClock) -> None:
    pace = Pace()
    with pace.lasting(0.003):
        clock.now += 60.0
    for _ in range(100):
        with pace.lasting(0.003):
            pass
    assert clock.now - 60.0 == pytest.approx(0.3, abs=0.004)
