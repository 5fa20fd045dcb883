import shutil
from pathlib import Path

import numpy as np
import pytest

from penstock.imagesets.opening import open_imageset
from penstock.protocol.errors import ConfigError, ImageSetError
from tests.imagesets.files import picture, png, write


def test_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    for file, value in (("cat/b.png", 2), ("cat/a.png", 1), ("ant/z.png", 3), ("bee/README", 0)):
        write(tmp_path / file, value)
    images = open_imageset(str(tmp_path))
    assert images.classes == ("ant", "cat")
    assert list(images.keys) == ["ant/z.png", "cat/a.png", "cat/b.png"]
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 1]
    assert list(images.captions) == ["ant", "cat", "cat"]
    for row, value in enumerate((3, 1, 2)):
        np.testing.assert_array_equal(images.image(row), picture(value))


def test_classes_that_are_numbers_stand_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("10", "9", "2"):
        write(tmp_path / name / "a.png", 1)
    images = open_imageset(str(tmp_path))
    assert images.classes == ("10", "2", "9")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 2]


def test_a_split_is_a_folder_and_another_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    write(tmp_path / "train/cat/a.png", 1)
    write(tmp_path / "val/cat/b.png", 2)
    assert list(open_imageset(str(tmp_path), "val").keys) == ["cat/b.png"]
    with pytest.raises(ConfigError, match=r"has no split 'test'; its folders are train, val$"):
        open_imageset(str(tmp_path), "test")
    with pytest.raises(ConfigError, match=r"has no images .*it has splits: train, val$"):
        open_imageset(str(tmp_path))


TABLES = {
    "metadata.csv": 'file_name,text,label\na.png,"one, alone",dog\nsub/b.png,,cat\n',
    "metadata.tsv": "file_name\ttext\tlabel\na.png\tone, alone\tdog\nsub/b.png\t\tcat\n",
    "metadata.jsonl": '{"file_name": "a.png", "text": "one, alone", "label": "dog"}\n'
    '{"file_name": "sub/b.png", "text": null, "label": "cat"}\n',
}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_says_files_captions_and_labels(tmp_path: Path, table: str) -> None:
    write(tmp_path / "a.png", 1)
    write(tmp_path / "sub/b.png", 2)
    (tmp_path / table).write_text(TABLES[table])
    images = open_imageset(str(tmp_path))
    assert list(images.captions) == ["one, alone", "cat"]
    assert images.classes == ("cat", "dog")
    assert images.labels is not None
    assert images.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(images.image(1), picture(2))


def test_an_image_with_two_captions_is_two_rows_with_keys_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 1)
    (tmp_path / "captions.txt").write_text("a.png\ta red fox\na.png\tan animal\n\n")
    images = open_imageset(str(tmp_path))
    assert list(images.keys) == ["a.png", "a.png#2"]
    assert list(images.captions) == ["a red fox", "an animal"]
    assert images.labels is None
    assert images.classes == ()


def test_images_of_which_nothing_is_said_have_empty_captions(tmp_path: Path) -> None:
    write(tmp_path / "a.webp.png", 1)
    assert list(open_imageset(str(tmp_path)).captions) == [""]


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("metadata.csv", "picture,text\na.png,x\n", r"no column of files .*its columns are picture, text$"),
        ("metadata.csv", "file_name,label\na.png,cat\na.png,\n", r"has labels, but row 1 and 0 others have none$"),
        ("metadata.csv", "file_name\nb.png\n", r"row 1: b.png cannot be read: No such file or directory$"),
        (
            "metadata.csv",
            "file_name\n../a.png\n",
            r"row 1: a file must be named relative to that folder, got '",
        ),
        ("metadata.csv", "file_name,text\n", r"no column of files|has no images$"),
        ("metadata.jsonl", "[1]\n", r"must hold one JSON object a line$"),
        ("metadata.jsonl", "{\n", r"metadata.jsonl cannot be read: "),
        ("captions.txt", "a.png a red fox\n", r"line 1: expected FILE, a tab, CAPTION, got 'a.png a red fox'$"),
        ("captions.txt", "\n", r"has no images$"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, file: str, text: str, why: str) -> None:
    write(tmp_path / "a.png", 1)
    (tmp_path / file).write_text(text)
    with pytest.raises(ConfigError, match=why) as caught:
        open_imageset(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_images_beside_folders_of_images_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 1)
    write(tmp_path / "cat/a.png", 1)
    with pytest.raises(ConfigError, match=r"has images beside folders of images \(a.png, cat/\)$"):
        open_imageset(str(tmp_path))


def test_the_digest_is_that_of_what_the_rows_say_and_not_of_where_they_lie(tmp_path: Path) -> None:
    write(tmp_path / "one/cat/a.png", 1)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    first = open_imageset(str(tmp_path / "one")).digest
    assert len(first) == 64
    assert open_imageset(str(tmp_path / "two")).digest == first
    (tmp_path / "two/cat/a.png").write_bytes(png(1) + b"\0")
    longer = open_imageset(str(tmp_path / "two")).digest
    (tmp_path / "one/cat").rename(tmp_path / "one/dog")
    assert len({first, longer, open_imageset(str(tmp_path / "one")).digest}) == 3


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path / "photos/cat/a.png", 1).write_bytes(png(1)[:30])
    (tmp_path / "photos/cat/b.png").write_bytes(b"no image")
    write(tmp_path / "photos/cat/c.png", 1)
    images = open_imageset(str(tmp_path / "photos"))
    (tmp_path / "photos/cat/c.png").unlink()
    with pytest.raises(ImageSetError, match=r"^photos: cat/a.png: "):
        images.image(0)
    with pytest.raises(ImageSetError, match=r"^photos: cat/b.png: its 8 bytes are no image that Pillow knows$"):
        images.image(1)
    with pytest.raises(ImageSetError, match=r"^photos: cat/c.png: .*No such file"):
        images.image(2)
