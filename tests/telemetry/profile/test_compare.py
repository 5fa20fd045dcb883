from dataclasses import replace

import pytest

from penstock.telemetry.profile.compare import compare
from penstock.telemetry.profile.summary import analyse
from penstock.telemetry.profile.text import table
from tests.telemetry.profile.measured import measured, rate, together


@pytest.mark.parametrize(("tolerance", "slower"), [(0.05, ["T trainer"]), (0.15, [])])
def test_a_rate_that_falls_beyond_the_tolerance_is_a_regression(tolerance: float, slower: list[str]) -> None:
    comparison = compare(analyse(measured()), analyse(measured(trainer=rate(900.0))), tolerance)
    assert [change.name for change in comparison.regressions] == slower
    assert [change.ratio for change in comparison.changes] == pytest.approx([1.0, 1.0, 1.0, 1.0, 0.9])


def test_faster_is_no_regression_and_a_change_within_the_intervals_says_so() -> None:
    base = analyse(measured(trainer=rate(1000.0, 0.3)))
    comparison = compare(base, analyse(measured(trainer=rate(900.0, 0.3), fleet=rate(400.0))), 0.05)
    (slower,) = comparison.regressions
    assert (slower.name, slower.is_within_noise) == ("T trainer", True)
    assert "perhaps noise" in table(comparison, 0.05)


def test_a_rate_of_which_no_spread_is_known_is_not_held_for_exact() -> None:
    # Two windows tell no spread. 10% less is within 1.96 standard errors of 10% each, half as much is not.
    base = analyse(measured(trainer=replace(rate(1000.0), windows=(1000.0, 1000.0))))
    for images_per_s, is_within_noise in ((900.0, True), (500.0, False)):
        other = replace(rate(images_per_s), windows=(images_per_s, images_per_s))
        (slower,) = compare(base, analyse(measured(trainer=other)), 0.05).regressions
        assert slower.is_within_noise is is_within_noise


def test_what_else_differs_is_named() -> None:
    other = measured(
        config_digest="ffff",
        cores=4,
        is_paced=True,
        environment={"machine": "x86_64", "torch": "2.14.0", "GPU": "H200", "load average": "0.50"},
    )
    comparison = compare(analyse(measured()), analyse(other), 0.05)
    assert comparison.differences == (
        "the settings differ (digests 0123abcd and ffff)",
        "cores: 2 and 4",
        "B is a rehearsal, whose work is a sleep",
        "GPU: none and H200",
        "torch: 2.13.0 and 2.14.0",
    )
    assert comparison.regressions == ()


def test_a_rate_that_is_no_longer_measured_is_lost() -> None:
    comparison = compare(analyse(measured()), analyse(measured(host=None, together=None)), 0.05)
    assert comparison.lost == ("all together", "H host")
    shown = table(comparison, 0.05)
    assert "Not measured in B: H host" in shown
    assert shown.endswith("Regression: all together, H host are no longer measured."), "as the status says"


def test_the_table_says_what_it_comes_to() -> None:
    base = analyse(measured())
    slower = analyse(measured(together=together(300.0, 150.0, 0.7)))
    assert table(compare(base, base, 0.05), 0.05).endswith("No regression: no rate fell by more than 5%.")
    shown = table(compare(base, slower, 0.05), 0.05)
    assert shown.endswith("Regression: all together fell by more than 5%.")
    assert "0.754  SLOWER" in shown
