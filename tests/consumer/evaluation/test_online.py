"""A look at an encoder in training: kNN and RankMe of the same features, and the alarm in the log."""

import logging

import pytest
import torch
from transformers import ViTModel

from penstock.consumer.config import EvaluationConfig
from penstock.consumer.evaluation.online import ToyWorldEvaluation
from penstock.consumer.models import build_encoder
from penstock.kernels.augment_recipe import AugmentRecipe
from penstock.protocol.errors import RunError


@pytest.fixture(scope="module")
def evaluation() -> ToyWorldEvaluation:
    return ToyWorldEvaluation(EvaluationConfig(), AugmentRecipe.weak(32))


def tiny_encoder() -> ViTModel:
    torch.manual_seed(0)
    return build_encoder(32, 16, 12, 1, 3, initializer_range=0.3)


def test_a_look_sees_what_validation_sees_and_the_spread_of_the_features(evaluation: ToyWorldEvaluation) -> None:
    encoder = tiny_encoder()
    look = evaluation.look(10, encoder)
    assert look.knn == evaluation.validation(encoder)
    assert 0.1 < look.knn < 1
    assert look.spread.max_rank == 12
    assert 1 < look.spread.rankme < 12


def test_collapse_is_logged_once_and_its_end_too(
    evaluation: ToyWorldEvaluation, caplog: pytest.LogCaptureFixture
) -> None:
    healthy, collapsed = tiny_encoder(), tiny_encoder()
    with torch.no_grad():
        collapsed.layernorm.weight.mul_(1e-4)
        collapsed.layernorm.bias.fill_(1.0)
    with caplog.at_level(logging.WARNING, logger="penstock"):
        for step in (100, 200, 300):
            evaluation.look(step, collapsed)
        evaluation.look(400, healthy)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("the features have collapsed since step 100")
    assert lines[1].startswith("the features have recovered at step 400")


def test_features_that_are_no_numbers_end_the_run_in_one_line(evaluation: ToyWorldEvaluation) -> None:
    broken = tiny_encoder()
    with torch.no_grad():
        broken.layernorm.bias[0] = float("inf")
    with pytest.raises(RunError, match="the encoder's features are no finite numbers at step 7"):
        evaluation.look(7, broken)
