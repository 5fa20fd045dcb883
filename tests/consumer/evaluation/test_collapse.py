"""The alarm rings once, after two looks that agree, and says when it is over."""

import torch

from penstock.consumer.evaluation.collapse import CollapseAlarm
from penstock.consumer.evaluation.rankme import Spread, spread

HEALTHY = Spread(rankme=40.0, max_rank=96, mean_cosine=0.6)
RANDOM_WEIGHTS = Spread(rankme=4.9, max_rank=96, mean_cosine=0.988)
LOW_RANK = Spread(rankme=1.5, max_rank=96, mean_cosine=0.7)
ALIKE = Spread(rankme=30.0, max_rank=96, mean_cosine=0.999)


def test_two_looks_in_a_row_ring_it_and_no_third_repeats_it() -> None:
    alarm = CollapseAlarm()
    assert alarm.saw(100, LOW_RANK) is None
    line = alarm.saw(200, LOW_RANK)
    assert line is not None
    assert line.startswith("the features have collapsed since step 100: RankMe is 1.5 of 96, below 2%")
    assert alarm.ringing
    assert alarm.saw(300, ALIKE) is None
    assert alarm.ringing


def test_either_sign_is_enough() -> None:
    alarm = CollapseAlarm()
    alarm.saw(100, LOW_RANK)
    line = alarm.saw(200, ALIKE)
    assert line is not None
    assert "the mean cosine between images is 0.9990, above 0.995" in line


def test_one_suspect_look_between_good_ones_says_nothing() -> None:
    alarm = CollapseAlarm()
    assert [alarm.saw(step, look) for step, look in enumerate([ALIKE, HEALTHY, ALIKE, HEALTHY])] == [None] * 4


def test_it_says_that_it_is_over_and_can_ring_again() -> None:
    alarm = CollapseAlarm()
    alarm.saw(1, ALIKE)
    alarm.saw(2, ALIKE)
    assert alarm.saw(3, HEALTHY) == "the features have recovered at step 3: RankMe 40.0 of 96, mean cosine 0.600"
    assert alarm.saw(4, HEALTHY) is None
    assert alarm.saw(5, LOW_RANK) is None
    line = alarm.saw(6, LOW_RANK)
    assert line is not None
    assert "since step 5" in line


def test_random_weights_are_no_collapse_and_a_constant_output_is_one() -> None:
    alarm = CollapseAlarm()
    assert [alarm.saw(step, RANDOM_WEIGHTS) for step in range(5)] == [None] * 5
    noise = torch.randn(200, 96, generator=torch.Generator().manual_seed(0))
    constant = spread(torch.ones(200, 96) + 1e-3 * noise)
    alarm.saw(6, constant)
    assert alarm.saw(7, constant) is not None
