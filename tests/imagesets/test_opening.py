from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from penstock.imagesets.opening import open_imageset
from penstock.protocol.errors import ConfigError
from penstock.toyworld.captions import DIGIT_WORDS
from penstock.toyworld.scans import load_split


@pytest.mark.parametrize(
    ("split", "scans", "repeats"), [("train", "train", 4), ("test", "test", 2), ("raw-val", "val", 1)]
)
def test_the_toy_world_s_splits_hold_its_scans_and_nothing_else(split: str, scans: str, repeats: int) -> None:
    images, drawn = open_imageset("toyworld", split), load_split(scans)  # type: ignore[arg-type]
    counts = Counter(int(key.partition("/")[0]) for key in images.keys)
    assert counts == dict.fromkeys(drawn.ids.tolist(), repeats)
    assert len(set(images.keys)) == len(images)
    assert images.classes == tuple(DIGIT_WORDS)
    assert images.labels is not None
    assert np.bincount(images.labels).tolist() == (np.bincount(drawn.labels) * repeats).tolist()
    assert images.captions[0] == f"a handwritten {DIGIT_WORDS[images.labels[0]]}"
    assert images.image(0).shape == (32, 32, 3)


def test_raw_scans_show_their_ink(tmp_path: Path) -> None:
    images, drawn = open_imageset("toyworld", "raw-test"), load_split("test")
    # Pixel (16, 16) of 32 lies a quarter of a cell beyond the middle of 8 x 8.
    inside = drawn.images[5, 3:5, 3:5]
    weights = np.outer([0.375, 0.625], [0.375, 0.625])
    assert abs(images.image(5)[16, 16, 0] - 255 * (1 - (inside * weights).sum())) <= 1


@pytest.mark.parametrize(
    ("spec", "split", "why"),
    [
        ("", "", r"must be named"),
        ("toyworld", "all", r"^toyworld has no split 'all'; there is train, val, test, raw-val, raw-test$"),
        ("/nowhere/photos", "", r"^/nowhere/photos is not a folder, nor any other set of images$"),
        ("/nowhere/a.tar", "", r"^/nowhere/a.tar is not there$"),
        ("/nowhere/*.parquet", "", r"^/nowhere/\*.parquet is not there$"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(spec: str, split: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        open_imageset(spec, split)
