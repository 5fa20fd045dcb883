"""The formats of an exported data set. Each writes whole shards: one that was stopped in the middle is written again.

- `webdataset`: `train-000000.tar` with KEY.png, KEY.txt, KEY.json side by side, and KEY.cls where there are classes
  (https://github.com/webdataset/webdataset).
- `folder`: `000000/KEY.png` and one `metadata.jsonl`, as Hugging Face's imagefolder has it.
- `parquet`: `train-000000.parquet` with a column `image` of {bytes, path}, as Hugging Face's exports have it.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_ROWS_PER_GROUP = 64
"""Of Parquet: an image costs its reader a whole row group."""
_UNFINISHED = ".tmp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image with what is known of it."""

    key: str
    """Unique; holds no dot."""
    image: NDArray[np.uint8]
    """uint8 [H, W, 3]."""
    caption: str
    about: Mapping[str, object]
    """Plain values, of the same kinds for every sample."""
    label: str
    """Its class by name; empty where it has none."""


class SampleWriter(Protocol):
    """Writes shards, one after another."""

    nbytes: int
    """Of the shard so far."""

    def begin(self, number: int) -> None:
        """Begin a shard, in place of whatever an earlier try has left of it. Raises OSError."""

    def add(self, sample: Sample) -> None:
        """Write a sample. Raises OSError."""

    def end(self) -> None:
        """Make the shard whole; one without samples leaves nothing. Raises OSError."""


class ImageCoder:
    """Codes images for files.

    Args:
        codec: `png` or `jpeg`.
        quality: of jpeg, 1 to 100.
    """

    def __init__(self, codec: str, quality: int) -> None:
        self.suffix = {"png": ".png", "jpeg": ".jpg"}[codec]
        self._options: dict[str, Any] = {"format": "PNG", "compress_level": 6}
        if codec == "jpeg":
            self._options = {"format": "JPEG", "quality": quality}

    def encode(self, image: NDArray[np.uint8]) -> bytes:
        """The file of an image, uint8 [H, W, 3]."""
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(image).save(file, **self._options)
        return file.getvalue()


class TarWriter:
    """WebDataset shards. All as in `FORMATS`."""

    def __init__(self, folder: Path, *, codec: str, quality: int, labelled: bool) -> None:
        self._folder = folder
        self._coder = ImageCoder(codec, quality)
        self._labelled = labelled
        self.nbytes = 0

    def begin(self, number: int) -> None:
        """See `SampleWriter`."""
        self._path = self._folder / f"train-{number:06d}.tar"
        self._tar = tarfile.open(_unfinished(self._path), "w")  # noqa: SIM115 - open until the shard is whole
        self.nbytes = 0

    def add(self, sample: Sample) -> None:
        """See `SampleWriter`."""
        self._member(sample.key + self._coder.suffix, self._coder.encode(sample.image))
        self._member(f"{sample.key}.txt", sample.caption.encode())
        self._member(f"{sample.key}.json", json.dumps(sample.about, ensure_ascii=False).encode())
        if self._labelled:
            self._member(f"{sample.key}.cls", sample.label.encode())

    def _member(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._tar.addfile(info, io.BytesIO(content))
        self.nbytes = self._tar.offset

    def end(self) -> None:
        """See `SampleWriter`."""
        self._tar.close()
        _finish(self._path, is_empty=self.nbytes == 0)


class FolderWriter:
    """Image files with one table. All as in `FORMATS`."""

    def __init__(self, folder: Path, *, codec: str, quality: int, labelled: bool) -> None:
        self._folder = folder
        self._coder = ImageCoder(codec, quality)
        self._labelled = labelled
        self._lines: list[str] = []
        self.nbytes = 0

    def begin(self, number: int) -> None:
        """See `SampleWriter`."""
        self._number = number
        self._lines = []
        self.nbytes = 0

    def add(self, sample: Sample) -> None:
        """See `SampleWriter`."""
        name = f"{self._number:06d}/{sample.key}{self._coder.suffix}"
        content = self._coder.encode(sample.image)
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        label = {"label": sample.label} if self._labelled else {}
        row = {"file_name": name, "caption": sample.caption, **label, **sample.about}
        self._lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        self.nbytes += len(content)

    def end(self) -> None:
        """See `SampleWriter`. A table that names a shard's files twice would be wrong: its lines are replaced whole."""
        if not self._lines:
            return
        table = self._folder / "metadata.jsonl"
        prefix = f'{{"file_name": "{self._number:06d}/'
        unfinished = _unfinished(table)
        with unfinished.open("w", encoding="utf-8") as file:
            if table.exists():
                with table.open(encoding="utf-8") as earlier:
                    file.writelines(line for line in earlier if not line.startswith(prefix))
            file.writelines(self._lines)
        os.replace(unfinished, table)


class ParquetWriter:
    """Parquet files. All as in `FORMATS`. Raises ConfigError where pyarrow is not installed."""

    def __init__(self, folder: Path, *, codec: str, quality: int, labelled: bool) -> None:
        from penstock.imagesets.parquet import import_parquet

        self._parquet = import_parquet()
        self._folder = folder
        self._coder = ImageCoder(codec, quality)
        self._labelled = labelled
        self._rows: list[dict[str, object]] = []
        self.nbytes = 0

    def begin(self, number: int) -> None:
        """See `SampleWriter`."""
        self._path = self._folder / f"train-{number:06d}.parquet"
        self._writer: Any = None
        self.nbytes = 0

    def add(self, sample: Sample) -> None:
        """See `SampleWriter`."""
        content = self._coder.encode(sample.image)
        image = {"bytes": content, "path": sample.key + self._coder.suffix}
        label = {"label": sample.label} if self._labelled else {}
        self._rows.append({"image": image, "caption": sample.caption, **label, **sample.about})
        self.nbytes += len(content)
        if len(self._rows) == _ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        table = pa.Table.from_pylist(self._rows, _schema(self._rows[0]))
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(_unfinished(self._path), table.schema)
        self._writer.write_table(table)
        self._rows = []

    def end(self) -> None:
        """See `SampleWriter`."""
        if self._rows:
            self._flush()
        if self._writer is not None:
            self._writer.close()
            _finish(self._path, is_empty=False)


def _schema(row: Mapping[str, object]) -> Any:
    """The Arrow schema of rows like this, with what Hugging Face's readers look for."""
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), type(None): pa.bool_()}
    fields = [(name, image if name == "image" else kinds[type(value)]) for name, value in row.items()]
    names = {"string": "string", "int64": "int64", "double": "float64", "bool": "bool"}
    features = {
        name: {"_type": "Image"} if name == "image" else {"_type": "Value", "dtype": names[str(kind)]}
        for name, kind in fields
    }
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(fields, metadata=told)


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + _UNFINISHED)


def _finish(path: Path, *, is_empty: bool) -> None:
    if is_empty:
        _unfinished(path).unlink()
    else:
        os.replace(_unfinished(path), path)


FORMATS: Mapping[str, Callable[..., SampleWriter]] = {
    "webdataset": TarWriter,
    "folder": FolderWriter,
    "parquet": ParquetWriter,
}
"""By name: takes the data set's folder, the codec (`png`, `jpeg`) and its quality, and whether samples have classes."""
