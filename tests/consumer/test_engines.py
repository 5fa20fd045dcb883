"""What producers of either kind must be: what the settings say, or an earlier life."""

from dataclasses import replace
from typing import Any

import pytest

from penstock.consumer.checkpoint import Checkpoint
from penstock.consumer.config import TrainConfig
from penstock.consumer.engines import expected
from penstock.consumer.feed_state import FeedState
from penstock.consumer.making_config import FilterConfig, GeneratorConfig, RealConfig
from penstock.consumer.prompts.captions import ListedCaptions, ShuffledCaptions
from penstock.consumer.real_images import RealImages
from penstock.consumer.record import Record
from penstock.protocol.admission import Expectation
from penstock.protocol.errors import RunError

PHOTOS = RealImages(ShuffledCaptions(ListedCaptions(["a fox"], "d2"), 0), "no photos")


def _config(fraction: float, **changes: Any) -> TrainConfig:
    return TrainConfig(**{"order": "ticket", "real": RealConfig(source="photos", fraction=fraction)} | changes)


def _checkpoint(model: str = "d1", real: str = "d2") -> Checkpoint:
    manifests = {"manifest_digest": model and "e1", "real_manifest_digest": real and "e2"}
    return Checkpoint(
        step=1,
        model_digest=model,
        prompts_digest="p",
        record=Record(),
        feed=FeedState.beginning(0, 1),
        real_digest=real,
        **manifests,
    )


def test_a_run_without_real_images_expects_what_it_always_did() -> None:
    assert expected(TrainConfig(), None, None) == (Expectation(), None)
    first = TrainConfig(order="ticket", generator=GeneratorConfig(model_digest="ab"))
    assert expected(first, None, None) == (Expectation(model_digest="ab", same_engine=True), None)


def test_a_run_that_filters_expects_a_scorer_and_later_lives_the_same() -> None:
    config = TrainConfig(filter=FilterConfig(min_score=0.5))
    lack = "no producer generates images: penstock produce --scorer NAME"
    assert expected(config, None, None) == (Expectation(filters=True, lack=lack), None)
    generated, _ = expected(config, None, replace(_checkpoint(real=""), scorer_digest="5c"))
    assert generated is not None
    assert (generated.filters, generated.scorer) == (True, "5c")


def test_a_run_of_both_kinds_expects_either_by_its_digest_and_says_what_it_lacks() -> None:
    generated, real = expected(_config(0.5), PHOTOS, None)
    lack = "no producer generates images: penstock produce"
    assert generated == Expectation(same_engine=True, lack=lack)
    assert real == Expectation(model_digest="d2", same_engine=True, lack="no photos")


def test_a_run_of_real_images_alone_expects_no_generator() -> None:
    generated, real = expected(_config(1.0), PHOTOS, None)
    assert generated is None
    assert real == Expectation(model_digest="d2", same_engine=True, lack="no photos")


def test_a_later_life_expects_the_engines_of_the_first_of_each_kind() -> None:
    generated, real = expected(_config(0.5), PHOTOS, _checkpoint())
    assert generated is not None
    assert real is not None
    assert (generated.model_digest, generated.manifest_digest) == ("d1", "e1")
    assert (real.model_digest, real.manifest_digest) == ("d2", "e2")
    _, alone = expected(_config(1.0), PHOTOS, _checkpoint(model=""))
    assert alone == real


def test_a_later_life_with_other_images_or_another_generator_is_refused() -> None:
    with pytest.raises(
        RunError,
        match=r"^the images of photos are not those that the run began with; resume with those, or begin a new run$",
    ):
        expected(_config(0.5), PHOTOS, _checkpoint(real="d3"))
    with pytest.raises(RunError, match=r"^the run was begun with the generator d1, generator.model_digest says ab"):
        expected(_config(0.5, generator=GeneratorConfig(model_digest="ab")), PHOTOS, _checkpoint())
