"""Parquet files with the images in a column, as Hugging Face's exports have them.

Only captions and labels are read at the opening. An image costs the column's whole row group, of which the last few
are kept: files written with small row groups are read fastest in any order.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.imagesets.columns import CAPTION, IMAGE, LABEL, find_column, first_text, no_column
from penstock.imagesets.labels import read_labels
from penstock.imagesets.rows import StoredImages, gather
from penstock.imagesets.shards import find_shards, shard_names
from penstock.protocol.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SUFFIX = (".parquet",)
_KEPT_ROW_GROUPS = 4


def open_parquet(spec: str, split: str) -> StoredImages:
    """The rows of all files. Raises ConfigError where pyarrow is missing, or where files or columns cannot be used."""
    shards = find_shards(spec, split, SUFFIX)
    files = [_open(shard) for shard in shards]
    schema = files[0].schema_arrow
    image = _image_column(str(shards[0]), schema)
    caption, label = find_column(schema.names, CAPTION), find_column(schema.names, LABEL)
    for shard, file in zip(shards, files, strict=True):
        missing = {image, caption, label} - {None, *file.schema_arrow.names}
        if missing:
            raise ConfigError(f"{shard} has no column {missing.pop()!r}, which {shards[0].name} has")
    where = f"{Path(spec).name}/{split}" if split else Path(spec).name
    captions = None if caption is None else [first_text(text) for file in files for text in _values(file, caption)]
    marks = None if label is None else [value for file in files for value in _values(file, label)]
    labels = read_labels(marks, where, _class_names(schema, label))
    keys, sizes, places = [], [], []
    for shard, file, name in zip(shards, files, shard_names(shards), strict=True):
        keys += [f"{name}/{row}" for row in range(file.metadata.num_rows)]
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            sizes += [_column_bytes(group, image)] * group.num_rows
            places += [(shard, number, row) for row in range(group.num_rows)]
    return StoredImages(gather(where, keys, captions, labels, sizes), _Reader(places, image))


def import_parquet() -> Any:
    """The module `pyarrow.parquet`. Raises ConfigError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("Parquet files need pyarrow; pip install -e '.[data]'") from error
    return pyarrow.parquet


def _open(shard: Path) -> "pq.ParquetFile":
    parquet = import_parquet()
    import pyarrow as pa

    try:
        return parquet.ParquetFile(shard)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{shard} cannot be read as Parquet: {error}") from error


def _image_column(where: str, schema: "pa.Schema") -> str:
    """The column of images: by its name, else the only one that holds bytes."""
    encoded: list[str] = [field.name for field in schema if _holds_bytes(field.type)]
    named = find_column(encoded, IMAGE)
    if named is not None:
        return named
    if len(encoded) != 1:
        raise no_column(where, "images", IMAGE, (f"{field.name} ({field.type})" for field in schema))
    return encoded[0]


def _holds_bytes(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return "bytes" in [kind.field(number).name for number in range(kind.num_fields)]
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _values(file: "pq.ParquetFile", column: str) -> list[object]:
    values: list[object] = file.read(columns=[column]).column(column).to_pylist()
    return values


def _class_names(schema: "pa.Schema", label: str | None) -> Sequence[str]:
    """Names of the classes, where Hugging Face's description of the columns travels with the file."""
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names: Sequence[str] = told["info"]["features"][label].get("names", ())
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()
    return names


def _column_bytes(group: "pq.RowGroupMetaData", column: str) -> int:
    """Bytes of a row group's images: what a file tells of its images' sizes before they are read."""
    leaves = (group.column(number) for number in range(group.num_columns))
    return sum(leaf.total_uncompressed_size for leaf in leaves if leaf.path_in_schema.split(".")[0] == column)


class _Reader:
    """Reads the bytes of one row's image.

    Args:
        places: of each row: file, row group, row in it.
        column: of images.
    """

    def __init__(self, places: Sequence[tuple[Path, int, int]], column: str) -> None:
        self._places = places
        self._column = column
        self._groups: OrderedDict[tuple[Path, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, row: int) -> bytes:
        path, number, within = self._places[row]
        value = self._group(path, number)[within].as_py()
        encoded = value.get("bytes") if isinstance(value, dict) else value
        if not encoded:
            raise ValueError("it has no bytes")
        return bytes(encoded)

    def _group(self, path: Path, number: int) -> "pa.ChunkedArray":
        with self._lock:
            if (path, number) not in self._groups:
                file = _open(path)
                self._groups[path, number] = file.read_row_group(number, columns=[self._column]).column(self._column)
                while len(self._groups) > _KEPT_ROW_GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end((path, number))
            return self._groups[path, number]
