"""What a profile says of where it was measured."""

from pathlib import Path
from typing import Any

import pytest

from penstock.consumer.config import ReservoirConfig, StreamConfig
from penstock.consumer.profile_run.described import digest
from penstock.consumer.profile_run.settings import ProfileConfig


@pytest.mark.parametrize(
    ("settings", "decides"),
    [
        ({"out": Path("elsewhere")}, False),
        ({"producer_price_per_hour": 2.0, "trainer_price_per_hour": 3.0}, False),
        ({"stream": StreamConfig(endpoint="tcp://127.0.0.1:7000")}, False),
        ({"stream": StreamConfig(window_groups=128)}, True),
        ({"reservoir": ReservoirConfig(reuse=3)}, True),
        ({"seconds": 20.0}, True),
    ],
)
def test_settings_that_decide_what_is_measured_are_told_from_others(settings: dict[str, Any], decides: bool) -> None:
    assert (digest(ProfileConfig(**settings)) != digest(ProfileConfig())) == decides
