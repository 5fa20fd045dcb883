"""Ranks of a test that are closed with it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.producer.live_rank import LiveRank


@pytest.fixture
def open_rank() -> Iterator[Callable[..., LiveRank]]:
    """Opens ranks; all are closed after the test."""
    opened: list[LiveRank] = []

    def open_one(*args: str, **changes: Any) -> LiveRank:
        opened.append(LiveRank(*args, **changes))
        return opened[-1]

    yield open_one
    for rank in opened:
        rank.socket.close()
