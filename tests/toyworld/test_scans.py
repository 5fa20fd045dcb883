import numpy as np
import pytest
from sklearn.datasets import load_digits

from penstock.toyworld.scans import Split, load_split

SPLITS: tuple[Split, ...] = ("train", "val", "test")
TRAIN_IDS = [4, 5, 7, 9, 10, 13, 15, 16]
TEST_IDS = [2, 6, 11, 18, 32, 34, 41, 46]


def test_splits_are_disjoint_and_hold_every_scan() -> None:
    ids = np.concatenate([load_split(split).ids for split in SPLITS])
    assert sorted(ids) == list(range(1797))


def test_splits_have_the_stated_shares_of_every_digit() -> None:
    totals = np.bincount(load_digits().target)
    for split, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
        counts = np.bincount(load_split(split).labels)
        np.testing.assert_allclose(counts, share * totals, atol=1.1)


@pytest.mark.parametrize("split", SPLITS)
def test_scans_are_the_data_sets_own_pixels_and_labels(split: Split) -> None:
    scans, data = load_split(split), load_digits()
    np.testing.assert_array_equal(scans.labels, data.target[scans.ids])
    np.testing.assert_allclose(scans.images * 16, data.images[scans.ids], atol=1e-5)
    assert scans.images.dtype == np.float32
    assert (scans.images.min(), scans.images.max()) == (0, 1)


def test_the_split_never_changes() -> None:
    # The shipped generator was trained on this split; another one would leak its handwriting into the
    # evaluation.
    assert load_split("train").ids[:8].tolist() == TRAIN_IDS
    assert load_split("test").ids[:8].tolist() == TEST_IDS


def test_scans_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        load_split("train").images[0] = 0


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'dev'"):
        load_split("dev")  # type: ignore[arg-type]
