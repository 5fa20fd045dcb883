from pathlib import Path

import datasets
import numpy as np
import pytest

from penstock.imagesets.opening import open_imageset
from penstock.protocol.errors import ConfigError
from tests.imagesets.files import picture, png, write


@pytest.fixture(autouse=True)
def _cache_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def made(values: list[int]) -> datasets.Dataset:
    features = datasets.Features(
        {"photo": datasets.Image(), "caption": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y"])}
    )
    rows = {
        "photo": [{"bytes": png(value), "path": None} for value in values],
        "caption": [f"number {value}" for value in values],
        "label": [value % 2 for value in values],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_saved_set_has_its_classes_captions_and_splits(tmp_path: Path) -> None:
    datasets.DatasetDict(train=made([1, 2]), test=made([3])).save_to_disk(tmp_path / "saved")
    images = open_imageset(str(tmp_path / "saved"), "train")
    assert images.classes == ("x", "y")
    assert images.labels is not None
    assert images.labels.tolist() == [1, 0]
    assert list(images.captions) == ["number 1", "number 2"]
    np.testing.assert_array_equal(images.image(1), picture(2))
    with pytest.raises(ConfigError, match=r"has no split 'val'; there is train, test$"):
        open_imageset(str(tmp_path / "saved"), "val")
    with pytest.raises(ConfigError, match=r"has several splits; there is train, test$"):
        open_imageset(str(tmp_path / "saved"))


def test_a_set_that_was_shuffled_reads_its_own_rows(tmp_path: Path) -> None:
    made([1, 2, 3]).select([2, 0]).save_to_disk(tmp_path / "saved")
    images = open_imageset(str(tmp_path / "saved"))
    assert list(images.captions) == ["number 3", "number 1"]
    np.testing.assert_array_equal(images.image(0), picture(3))


def test_a_set_by_name_is_what_the_library_loads(tmp_path: Path) -> None:
    write(tmp_path / "folder/train/cat/a.png", 1)
    write(tmp_path / "folder/train/dog/b.png", 2)
    images = open_imageset(f"hf:{tmp_path / 'folder'}", "train")
    assert images.classes == ("cat", "dog")
    assert list(images.captions) == ["cat", "dog"]
    np.testing.assert_array_equal(images.image(1), picture(2))


def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "texts")
    with pytest.raises(ConfigError, match=r"no column of images .*its columns are text \(Value\)$"):
        open_imageset(str(tmp_path / "texts"))
    with pytest.raises(ConfigError, match=r"^hf:nobody/nothing does not load: ") as caught:
        open_imageset("hf:nobody/nothing")
    assert "\n" not in str(caught.value)
