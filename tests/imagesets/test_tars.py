import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from penstock.imagesets.opening import open_imageset
from penstock.protocol.errors import ConfigError, ImageSetError
from tests.imagesets.files import picture, png


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_members_of_one_key_are_one_sample(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "s-0.tar",
        {
            "a/1.txt": b"a red fox \n",
            "a/1.png": png(1),
            "a/1.cls": b"1",
            "a/2.png": png(2),
            "a/2.json": b'{"caption": "a snail", "label": 0, "width": 6}',
            "a/3.txt": b"without an image",
        },
    )
    write_tar(tmp_path / "s-1.tar", {"a/1.jpg.png": png(3), "a/1.cls": b"1"})
    images = open_imageset(str(tmp_path / "s-{0..1}.tar"))
    assert list(images.keys) == ["s-0/a/1", "s-0/a/2", "s-1/a/1"]
    assert list(images.captions) == ["a red fox", "a snail", "1"]
    assert images.classes == ("0", "1")
    assert images.labels is not None
    assert images.labels.tolist() == [1, 0, 1]
    for row, value in enumerate((1, 2, 3)):
        np.testing.assert_array_equal(images.image(row), picture(value))


def test_numbers_of_a_range_are_as_wide_as_its_first(tmp_path: Path) -> None:
    for number in range(8, 12):
        write_tar(tmp_path / f"x-{number:03d}.tar", {"k.png": png(number)})
    images = open_imageset(str(tmp_path / "x-{008..011}.tar"))
    assert list(images.keys) == ["x-008/k", "x-009/k", "x-010/k", "x-011/k"]
    with pytest.raises(ConfigError, match=r"x-012.tar is not there$"):
        open_imageset(str(tmp_path / "x-{008..012}.tar"))


def test_a_split_is_a_folder_or_how_names_begin(tmp_path: Path) -> None:
    write_tar(tmp_path / "flat/val-0.tar", {"k.png": png(1)})
    write_tar(tmp_path / "flat/validation-0.tar", {"k.png": png(2)})
    assert list(open_imageset(str(tmp_path / "flat"), "val").keys) == ["val-0/k"]
    assert len(open_imageset(str(tmp_path / "flat/*.tar"))) == 2
    write_tar(tmp_path / "deep/train/0.tar", {"k.png": png(1)})
    write_tar(tmp_path / "deep/test/0.tar", {"k.png": png(2)})
    deep = open_imageset(str(tmp_path / "deep"), "test")
    np.testing.assert_array_equal(deep.image(0), picture(2))
    assert list(open_imageset(str(tmp_path / "deep")).keys) == ["test/0/k", "train/0/k"]
    with pytest.raises(ConfigError, match=r"has no split 'train'; there is val, validation$"):
        open_imageset(str(tmp_path / "flat"), "train")
    with pytest.raises(ConfigError, match=r"has no split 'val'; there is test, train$"):
        open_imageset(str(tmp_path / "deep"), "val")


@pytest.mark.parametrize(("name", "mode"), [("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar.xz", "w:xz")])
def test_a_compressed_tar_is_refused_in_one_line(tmp_path: Path, name: str, mode: str) -> None:
    write_tar(tmp_path / name, {"k.png": png(1)}, mode)
    for spec in (tmp_path, tmp_path / name):
        with pytest.raises(ConfigError, match=r"is compressed, and images are read in any order; unpack it"):
            open_imageset(str(spec))


def test_what_is_no_tar_or_has_no_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ConfigError, match=r"a.tar cannot be read as a tar: "):
        open_imageset(str(tmp_path))
    write_tar(tmp_path / "a.tar", {"k.txt": b"hello"})
    with pytest.raises(ConfigError, match=r"has no images$"):
        open_imageset(str(tmp_path))
    write_tar(tmp_path / "a.tar", {"k.png": png(1), "k.json": b"{"})
    with pytest.raises(ConfigError, match=r"a/k.json is no JSON: "):
        open_imageset(str(tmp_path))


def test_a_tar_that_was_cut_since_is_an_error_of_its_row(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"k.png": png(1)})
    images = open_imageset(str(tar))
    tar.write_bytes(tar.read_bytes()[:540])
    with pytest.raises(ImageSetError, match=r"^a.tar: a/k: .*is shorter than it was$"):
        images.image(0)


def test_rows_may_be_read_from_several_threads(tmp_path: Path) -> None:
    images = open_imageset(str(write_tar(tmp_path / "a.tar", {f"{n}.png": png(n) for n in range(50)})))
    with ThreadPoolExecutor(4) as pool:
        for value, pixels in enumerate(pool.map(images.image, range(50))):
            np.testing.assert_array_equal(pixels, picture(value))
