"""Which scale each image has: its distribution, and that nothing but the ticket's place decides."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.rules import require
from penstock.consumer.config import ReservoirConfig, TrainConfig
from penstock.consumer.feed_state import FeedState
from penstock.consumer.guidance import read_schedule, scale_at
from penstock.consumer.making_config import FilterConfig, GeneratorConfig, RealConfig
from penstock.consumer.prompts.source import Prompt
from penstock.consumer.prompts.writer import TicketWriter
from penstock.consumer.schedule import ArrivalOrder, Share
from penstock.protocol.errors import ConfigError


class Numbered:
    """Captions that say their index; every third is real."""

    digest, real_digest = "c1", "d2"
    concepts: tuple[str, ...] = ()

    def prompt(self, index: int) -> Prompt:
        """As the class says."""
        return Prompt(f"caption {index}")

    def is_real(self, index: int) -> bool:
        """As the class says."""
        return index % 3 == 0


class Generated(Numbered):
    """None of them is real."""

    def is_real(self, index: int) -> bool:
        """As the class says."""
        return False


def _writer(source: Numbered | None = None, seed: int = 5, scorer: str = "", **changes: Any) -> TicketWriter:
    sections = {name: changes.pop(name) for name in ("filter", "reservoir", "groups_per_step") if name in changes}
    generator = GeneratorConfig(**{"images_per_group": 4, "height": 8, "width": 8} | changes)
    return TicketWriter(source or Generated(), TrainConfig(seed=seed, generator=generator, **sections), "d1", scorer)


def _scales(writer: TicketWriter, count: int) -> list[tuple[float, ...]]:
    return [writer.write(index, 0, 0).recipe.guidance_scales for index in range(count)]


def test_a_constant_scale_is_one_for_all_images() -> None:
    assert _scales(_writer(guidance_scale=1.5), 5) == [(1.5,)] * 5


def test_each_image_draws_one_of_several_evenly() -> None:
    drawn = np.array(_scales(_writer(guidance_scales=(1.0, 2.5, 4.0)), 1500))
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [1.0, 2.5, 4.0]
    assert scipy.stats.chisquare(counts).pvalue > 0.001
    # Images of one group are drawn apart: each pair is equal in a third of the groups.
    same = int((drawn[:, 0] == drawn[:, 1]).sum())
    assert scipy.stats.binomtest(same, 1500, 1 / 3).pvalue > 0.001


def test_each_image_draws_evenly_from_a_range_in_thousandths_with_both_ends() -> None:
    drawn = np.array(_scales(_writer(guidance_range=(1.0, 4.0)), 1500)).ravel()
    assert scipy.stats.kstest((drawn - 1) / 3, "uniform").pvalue > 0.001
    assert np.array_equal(drawn, np.round(drawn, 3))
    few = np.array(_scales(_writer(guidance_range=(2.0, 2.002)), 200)).ravel()
    assert sorted(set(few.tolist())) == [2.0, 2.001, 2.002]
    assert _scales(_writer(guidance_range=(3.0, 3.0)), 2) == [(3.0,) * 4] * 2


def test_the_draw_depends_on_seed_and_index_alone() -> None:
    some = {"guidance_range": (1.0, 4.0)}
    first, again, other = _writer(**some), _writer(**some), _writer(seed=6, **some)
    backwards = [again.write(index, 1, 7).recipe.guidance_scales for index in reversed(range(20))][::-1]
    assert _scales(first, 20) == backwards
    assert _scales(other, 20) != backwards
    stand_in = first.stand_in(first.write(3, 0, 0)).recipe
    assert stand_in.guidance_scales != first.write(3, 0, 0).recipe.guidance_scales
    assert stand_in == again.write(3, 0, 9, stand_in=1).recipe


@pytest.mark.parametrize(("policy", "reuse", "first_uses"), [("fixed", 2, 2), ("adaptive", 6, 2), ("fresh", 5, 1)])
def test_a_schedule_gives_a_group_the_scale_of_the_step_at_which_it_is_first_due(
    policy: str, reuse: int, first_uses: int
) -> None:
    reservoir = ReservoirConfig(policy=policy, reuse=reuse, min_reuse=2, capacity_groups=8)  # type: ignore[arg-type]
    writer = _writer(guidance_schedule=("0:1", "10:3"), groups_per_step=4, reservoir=reservoir)
    share = Share(rank=0, world_size=1, seed=0, groups_per_step=4, capacity_groups=8, policy=reservoir.reuse_policy)
    upcoming = ArrivalOrder(share).upcoming(FeedState.beginning(0, 1), 0)
    for index in range(40):
        # 8 groups fill the reservoir; then each step uses 4 of them, and a group is spent after its first uses.
        due = max(0, (index - 8) * first_uses // 4)
        entry = next(upcoming)
        assert (entry.index, entry.need_by_step) == (index, due)
        expected = float(np.round(np.interp(due, [0, 10], [1, 3]), 3))
        assert writer.write(index, 0, due).recipe.guidance_scales == (expected,)
        # A later life asks for the same, however late it needs it.
        assert writer.write(index, 0, 999).recipe.guidance_scales == (expected,)


def test_scales_are_drawn_by_words_of_their_own() -> None:
    """Raw words of Philox, keyed by seed and index; the last word of the counter is no other draw's."""
    words = np.random.Philox(key=[5, 7], counter=[0, 0, 0, 2]).random_raw(4).astype(object)
    expected = tuple(1 + int(word * 3001 // 2**64) / 1000 for word in words)
    assert _writer(guidance_range=(1.0, 4.0)).write(7, 0, 0).recipe.guidance_scales == pytest.approx(expected)


@given(
    st.lists(
        st.tuples(st.integers(0, 10_000), st.integers(0, 20_000)), min_size=2, max_size=6, unique_by=lambda p: p[0]
    ),
    st.integers(0, 11_000),
)
def test_a_schedule_is_linear_between_its_points_and_constant_beyond_them(
    points: list[tuple[int, int]], step: int
) -> None:
    steps, thousandths = zip(*sorted(points), strict=True)
    entries = [f"{at}:{scale / 1000}" for at, scale in zip(steps, thousandths, strict=True)]
    expected = np.interp(step, steps, np.array(thousandths) / 1000)
    scale = scale_at(read_schedule(entries, require), step)
    assert abs(scale - expected) <= 0.000501
    assert scale == round(scale, 3)


def test_a_real_group_has_one_scale_and_no_filter() -> None:
    writer = _writer(Numbered(), scorer="5c", guidance_range=(1.0, 4.0), filter=FilterConfig(min_score=0.5))
    real, generated = writer.write(3, 0, 0).recipe, writer.write(4, 0, 0).recipe
    assert (real.model_digest, real.guidance_scales, real.is_filtered) == ("d2", (2.0,), False)
    assert (generated.model_digest, len(generated.guidance_scales), generated.is_filtered) == ("d1", 4, True)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (FilterConfig(min_score=0.25), (0.25, 4, 16)),
        (FilterConfig(quantile=0.2), (-1.0, 5, 16)),
        # 4 / (1 - 0.9) is 40, which floats make 40.000000000000014.
        (FilterConfig(quantile=0.9), (-1.0, 40, 40)),
        (FilterConfig(quantile=0.2, min_score=-0.5, max_candidates=9), (-0.5, 5, 9)),
        (FilterConfig(quantile=0.01), (-1.0, 5, 16)),
    ],
)
def test_a_filter_says_how_many_candidates_are_made(config: FilterConfig, expected: tuple[float, int, int]) -> None:
    recipe = _writer(scorer="5c", filter=config).write(4, 0, 0).recipe
    assert recipe.scorer_digest == "5c"
    assert (recipe.min_score, recipe.num_candidates, recipe.max_candidates) == expected


def test_a_run_without_a_filter_asks_for_none_whatever_its_producers_score_with() -> None:
    recipe = _writer(scorer="5c").write(4, 0, 0).recipe
    assert not recipe.is_filtered
    assert recipe == _writer().write(4, 0, 0).recipe


def test_a_filter_without_a_scorer_is_a_defect() -> None:
    with pytest.raises(ValueError, match="filter must have a scorer"):
        _writer(filter=FilterConfig(min_score=0.5))


def test_a_filter_of_nothing_but_real_images_is_refused() -> None:
    real = RealConfig(source="photos", fraction=1.0)
    with pytest.raises(ConfigError, match="filter must be left out where every image is real"):
        TrainConfig(real=real, filter=FilterConfig(min_score=0.5))
    assert replace(TrainConfig(real=real)).filter == FilterConfig()
