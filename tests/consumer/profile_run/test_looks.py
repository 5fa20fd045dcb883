"""What lies between two looks at a rank, from what its producers have told."""

from types import SimpleNamespace
from typing import cast

import pytest

from penstock.consumer.profile_run.looks import shares_between, worked_between
from penstock.consumer.stream_look import StreamLook
from penstock.protocol.watching import Status


def _look(status: Status | None) -> StreamLook:
    return cast(StreamLook, SimpleNamespace(peers=[SimpleNamespace(name="ann", images=8, status=status)]))


def test_a_batch_that_is_being_made_is_work_but_says_nothing_of_how_fast_images_are_made() -> None:
    """Ten seconds, in the middle of two batches of eight each: one ends, and one has been begun for four."""
    before = Status(clock_ns=100 * 10**9, images=64, busy_s=80.0, unfinished_s=2.0)
    after = Status(clock_ns=110 * 10**9, images=128, busy_s=88.0, unfinished_s=4.0)
    assert shares_between(_look(before), _look(after)) == {"ann": (1.0, None)}
    assert worked_between(_look(before), _look(after)) == {"ann": (64, 8.0)}


def test_the_share_of_matrix_products_is_of_all_the_time() -> None:
    before = Status(clock_ns=0, flops=0.0, matrix_flops_per_s=1e12)
    after = Status(clock_ns=4 * 10**9, busy_s=1.0, flops=1e12, matrix_flops_per_s=1e12)
    assert shares_between(_look(before), _look(after)) == {"ann": pytest.approx((0.25, 0.25))}


@pytest.mark.parametrize("before", [None, Status(clock_ns=5)])
def test_who_has_told_nothing_meanwhile_is_left_out(before: Status | None) -> None:
    assert worked_between(_look(before), _look(Status(clock_ns=5))) == {}
    assert shares_between(_look(before), _look(Status(clock_ns=5))) == {}
