"""The rules of a producer's settings."""

from typing import Any

import pytest

from penstock.producer.config import ProduceConfig
from penstock.protocol.errors import ConfigError


def test_images_travel_raw_unless_asked_otherwise() -> None:
    config = ProduceConfig()
    assert (config.codec, config.jpeg_quality) == ("raw", 92)


@pytest.mark.parametrize("quality", [-1, 0, 101])
def test_a_quality_that_jpeg_does_not_have_is_refused_by_name(quality: int) -> None:
    with pytest.raises(ConfigError, match=rf"jpeg_quality must be in \[1, 100\], got {quality}"):
        ProduceConfig(jpeg_quality=quality)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"images": "photos", "backend": "paced"}, "backend must be left out beside images"),
        ({"images": "photos", "devices": "all"}, "devices must be left out beside images"),
        ({"images": "photos", "scorer": "toyworld"}, "scorer must be left out beside images"),
        ({"images_split": "train"}, "images_split needs images"),
    ],
)
def test_settings_that_say_nothing_of_real_images_are_refused_beside_them(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        ProduceConfig(**settings)
