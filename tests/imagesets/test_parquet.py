import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.imagesets.opening import open_imageset
from penstock.protocol.errors import ConfigError, ImageSetError
from tests.imagesets.files import picture, png


def test_a_column_of_bytes_and_paths_with_captions_and_named_classes(tmp_path: Path) -> None:
    features = {"info": {"features": {"label": {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}}}}
    table = pa.table(
        {
            "image": [{"bytes": png(value), "path": f"{value}.png"} for value in range(5)],
            "text": ["zero", "one", None, "three", "four"],
            "label": [0, 2, 1, 0, 0],
        }
    ).replace_schema_metadata({"huggingface": json.dumps(features)})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data/train-00000-of-00001.parquet", row_group_size=2)
    images = open_imageset(str(tmp_path), "train")
    assert images.classes == ("ant", "bee", "cat")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 2, 1, 0, 0]
    assert list(images.captions) == ["zero", "one", "bee", "three", "four"]
    assert images.keys[4] == "train-00000-of-00001/4"
    for row in (4, 0, 3, 1, 2):
        np.testing.assert_array_equal(images.image(row), picture(row))


def test_bare_bytes_under_any_name_in_several_files(tmp_path: Path) -> None:
    for number in range(2):
        pq.write_table(pa.table({"pixels": [png(number)], "n": [1.5]}), tmp_path / f"p{number}.parquet")
    images = open_imageset(str(tmp_path))
    assert list(images.keys) == ["p0/0", "p1/0"]
    assert images.labels is None
    np.testing.assert_array_equal(images.image(1), picture(1))


def test_a_label_of_minus_one_is_none(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [png(0), png(1)], "label": [-1, -1]}), tmp_path / "a.parquet")
    assert open_imageset(str(tmp_path / "a.parquet")).labels is None


def test_what_cannot_be_used_is_refused_with_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"pixels": [1], "text": ["x"]}), path)
    with pytest.raises(ConfigError, match=r"no column of images .*its columns are pixels \(int64\), text \(string\)$"):
        open_imageset(str(path))
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), path)
    with pytest.raises(ConfigError, match=r"a.parquet has no images$"):
        open_imageset(str(path))
    pq.write_table(pa.table({"image": [png(1)], "label": [1]}), path)
    pq.write_table(pa.table({"image": [png(1)]}), tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match=r"b.parquet has no column 'label', which a.parquet has$"):
        open_imageset(str(tmp_path))
    path.write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"a.parquet cannot be read as Parquet: "):
        open_imageset(str(path))


def test_a_row_without_bytes_is_an_error_of_its_row(tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": None, "path": "x.png"}, {"bytes": png(1), "path": None}]})
    pq.write_table(table, tmp_path / "a.parquet")
    images = open_imageset(str(tmp_path / "a.parquet"))
    with pytest.raises(ImageSetError, match=r"^a.parquet: a/0: it has no bytes$"):
        images.image(0)
    np.testing.assert_array_equal(images.image(1), picture(1))
