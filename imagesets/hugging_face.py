"""Sets of the library `datasets`: by name (`hf:NAME[:CONFIG]`), or a folder that `save_to_disk` wrote.

https://huggingface.co/docs/datasets
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock.imagesets.columns import CAPTION, IMAGE, LABEL, find_column, first_text, no_column
from penstock.imagesets.labels import read_labels
from penstock.imagesets.rows import StoredImages, gather
from penstock.protocol.errors import ConfigError

PREFIX = "hf:"
_SAVED = ("dataset_dict.json", "state.json")
_ROWS_AT_A_TIME = 1000


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return any((folder / name).is_file() for name in _SAVED)


def open_hugging_face(spec: str, split: str) -> StoredImages:
    """The rows of one split. Raises ConfigError where it cannot be loaded, or has no images."""
    datasets = _import_datasets()
    try:
        if spec.startswith(PREFIX):
            name, _, config = spec.removeprefix(PREFIX).partition(":")
            found = datasets.load_dataset(name, config or None, split=split or None)
        else:
            name, found = Path(spec).name, datasets.load_from_disk(spec)
    except (OSError, ValueError, RuntimeError, ImportError, datasets.exceptions.DatasetsError) as error:
        raise ConfigError(f"{spec} does not load: {_first_line(error)}") from error
    return _read(datasets, spec, f"{name}/{split}" if split else name, _choose(datasets, spec, found, split))


def _import_datasets() -> Any:
    try:
        import datasets
        import datasets.exceptions
    except ImportError as error:
        raise ConfigError("Hugging Face's sets need the library datasets; pip install -e '.[data]'") from error
    datasets.disable_progress_bars()
    return datasets


def _choose(datasets: Any, spec: str, found: Any, split: str) -> Any:
    """The set of one split."""
    if isinstance(found, datasets.Dataset):
        own = str(found.split or "")
        if split and own and split != own:
            raise ConfigError(f"{spec} has no split {split!r}; it is {own}")
        return found
    splits = ", ".join(found)
    if not split and len(found) == 1:
        return next(iter(found.values()))
    if split not in found:
        raise ConfigError(f"{spec} has {f'no split {split!r}' if split else 'several splits'}; there is {splits}")
    return found[split]


def _read(datasets: Any, spec: str, name: str, rows: Any) -> StoredImages:
    """What the rows say; images stay where they are, undecoded."""
    features = rows.features
    pictures = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    image = find_column(pictures, IMAGE) or next(iter(pictures), None)
    if image is None:
        kinds = (f"{column} ({type(feature).__name__})" for column, feature in features.items())
        raise no_column(spec, "images", IMAGE, kinds)
    rows = rows.cast_column(image, datasets.Image(decode=False))
    caption, label = find_column(features, CAPTION), find_column(features, LABEL)
    captions = None if caption is None else [first_text(text) for text in rows[caption]]
    names = getattr(features[label], "names", ()) if label is not None else ()
    labels = read_labels(None if label is None else list(rows[label]), name, names)
    keys = [str(row) for row in range(len(rows))]

    def read(row: int) -> bytes:
        value = rows[row][image]
        if value["bytes"]:
            return bytes(value["bytes"])
        return Path(value["path"]).read_bytes()

    return StoredImages(gather(name, keys, captions, labels, _sizes(rows, image)), read)


def _sizes(rows: Any, image: str) -> Sequence[int]:
    """Bytes of each image; of one that lies in a file of its own, the file's."""
    import pyarrow.compute as pc

    sizes: list[int] = []
    for batch in rows.select_columns([image]).with_format("arrow").iter(_ROWS_AT_A_TIME):
        column = batch.column(image).combine_chunks()
        lengths = pc.binary_length(pc.struct_field(column, "bytes")).to_pylist()
        if None in lengths:
            paths = pc.struct_field(column, "path").to_pylist()
            lengths = [_file_bytes(path) if n is None else n for n, path in zip(lengths, paths, strict=True)]
        sizes += lengths
    return sizes


def _file_bytes(path: str | None) -> int:
    """Bytes of a file; 0 where it cannot be read, which its row says once it is asked for."""
    try:
        return os.path.getsize(path or "")
    except OSError:
        return 0


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)
