"""What a rank tells while it trains, and what of it goes on where the loss is no number."""

from math import isnan
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator

from penstock.consumer.meter import Totals
from penstock.consumer.record import Record
from penstock.consumer.reporter import Reporter
from penstock.consumer.training_step import StepLog
from penstock.protocol.errors import RunError
from tests.consumer.tiny_training import tiny_config


class Told:
    """A reporter between a step and a record that are the test's own; nobody else listens."""

    def __init__(self) -> None:
        self.step = SimpleNamespace(num_skipped=torch.zeros(()), num_skipped_last=torch.zeros(()))
        self.record = Record()
        silent: Any = SimpleNamespace(is_on=False)
        self.reporter = Reporter(
            tiny_config("stablerep"), Accelerator(cpu=True), cast(Any, self.step), self.record, silent, silent, None
        )

    def report(self, done: int, loss: float) -> float:
        return self.reporter.report(done, StepLog({"loss": torch.tensor(loss)}, 0.1, torch.ones(())), Totals())


def test_the_loss_is_told_as_it_is_and_the_curve_has_the_numbers_of_it() -> None:
    told = Told()
    assert told.report(10, 2.5) == 2.5
    assert isnan(told.report(20, float("nan")))
    assert told.report(30, float("inf")) == float("inf")
    assert told.report(40, 1.5) == 1.5
    assert told.record.loss == [(10, 2.5), (40, 1.5)]


def test_steps_that_changed_nothing_are_counted_and_too_many_of_them_end_the_run() -> None:
    told = Told()
    told.step.num_skipped += 3
    told.step.num_skipped_last += 2
    told.report(10, 2.5)
    assert (told.record.steps_skipped, told.reporter.last_step_counted) == (3, False)
    told.step.num_skipped_last += 100
    with pytest.raises(RunError, match=r"the gradients of the last 102 steps were no finite numbers \(loss nan"):
        told.report(20, float("nan"))
