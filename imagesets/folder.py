"""Images as files in a folder: one folder a class, or one flat folder with a table of captions.

- `ROOT[/SPLIT]/CLASS/*.jpg`: the classes are the folders' names, sorted.
- `ROOT[/SPLIT]/metadata.csv`, `.tsv` or `.jsonl`: columns file_name, caption and label, as Hugging Face's imagefolder
  has them.
- `ROOT[/SPLIT]/captions.txt`: lines of FILE, tab, CAPTION.
- `ROOT[/SPLIT]/*.jpg`: nothing is said of them.
"""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from penstock.imagesets.columns import CAPTION, FILE, LABEL, find_column, first_text, no_column
from penstock.imagesets.decoding import SUFFIXES
from penstock.imagesets.labels import Labels, place, read_labels
from penstock.imagesets.rows import StoredImages, gather
from penstock.protocol.errors import ConfigError

_TABLES = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
_CAPTIONS = "captions.txt"


def open_folder(root: Path, split: str) -> StoredImages:
    """The images below a folder. Raises ConfigError where there are none, or where its table cannot be used."""
    folder = find_split(root, split)
    name = f"{root.name}/{split}" if split else root.name
    table = next((folder / table for table in _TABLES if (folder / table).is_file()), None)
    if table is not None:
        return _tabled(name, folder, table)
    if (folder / _CAPTIONS).is_file():
        return _captioned(name, folder)
    return _classed(name, folder)


def find_split(root: Path, split: str) -> Path:
    """The folder of a split. Raises ConfigError where it is not there."""
    if not root.is_dir():
        raise ConfigError(f"{root} is not a folder, nor any other set of images")
    folder = root / split
    if not folder.is_dir():
        raise ConfigError(f"{root} has no split {split!r}; its folders are {_listed(_folders(root))}")
    return folder


def _classed(name: str, folder: Path) -> StoredImages:
    """One folder a class; or, without any below, a flat folder."""
    by_class = {below.name: files for below in _folders(folder) if (files := _images(below))}
    flat = _images(folder)
    if not by_class and not flat:
        splits = [below for below in _folders(folder) if any(_images(deeper) for deeper in _folders(below))]
        hint = f"; it has splits: {_listed(splits)}" if splits else ""
        raise ConfigError(f"{folder} has no images ({', '.join(SUFFIXES)}), nor folders of them{hint}")
    if by_class and flat:
        raise ConfigError(f"{folder} has images beside folders of images ({flat[0].name}, {next(iter(by_class))}/)")
    files = [file for name in sorted(by_class) for file in by_class[name]] or flat
    labels = place([file.parent.name for file in files], str(folder)) if by_class else Labels()
    return _files(name, folder, [file.relative_to(folder).as_posix() for file in files], None, labels)


def _tabled(name: str, folder: Path, table: Path) -> StoredImages:
    """Files, captions and labels from a table."""
    rows = _read_table(table)
    columns = list(rows[0]) if rows else []
    file = find_column(columns, FILE)
    if file is None:
        raise no_column(str(table), "files", FILE, columns)
    caption, label = find_column(columns, CAPTION), find_column(columns, LABEL)
    captions = None if caption is None else [first_text(row.get(caption)) for row in rows]
    labels = read_labels(None if label is None else [row.get(label) for row in rows], str(table))
    return _files(name, folder, [str(row.get(file) or "") for row in rows], captions, labels)


def _read_table(table: Path) -> list[Mapping[str, object]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as lines:
            if table.suffix == ".jsonl":
                rows = [json.loads(line) for line in lines if line.strip()]
                if not all(isinstance(row, dict) for row in rows):
                    raise ConfigError(f"{table} must hold one JSON object a line")
                return rows
            return list(csv.DictReader(lines, delimiter="\t" if table.suffix == ".tsv" else ","))
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{table} cannot be read: {error}") from error


def _captioned(name: str, folder: Path) -> StoredImages:
    """Files and captions from lines of FILE, tab, CAPTION."""
    path = folder / _CAPTIONS
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        file, tab, caption = line.partition("\t")
        if line.strip() and not tab:
            raise ConfigError(f"{path}, line {number}: expected FILE, a tab, CAPTION, got {line[:60]!r}")
        if tab:
            pairs.append((file.strip(), caption))
    return _files(name, folder, [file for file, _ in pairs], [caption for _, caption in pairs], Labels())


def _files(
    name: str, folder: Path, files: Sequence[str], captions: Sequence[str] | None, labels: Labels
) -> StoredImages:
    """The set of these files, named relative to `folder`. Raises ConfigError where one is missing or lies outside."""
    sizes = []
    for number, file in enumerate(files, 1):
        if not file or PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            raise ConfigError(f"{folder}, row {number}: a file must be named relative to that folder, got {file!r}")
        try:
            sizes.append((folder / file).stat().st_size)
        except OSError as error:
            raise ConfigError(f"{folder}, row {number}: {file} cannot be read: {error.strerror}") from error
    rows = gather(name, files, captions, labels, sizes)
    return StoredImages(rows, lambda row: (folder / files[row]).read_bytes())


def _images(folder: Path) -> list[Path]:
    """The image files that lie directly in a folder, sorted by name."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.lower().endswith(SUFFIXES) and entry.is_file())
    return [folder / name for name in names]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _listed(folders: Sequence[Path]) -> str:
    names = ", ".join(folder.name for folder in folders[:8])
    return (names + (", ..." if len(folders) > 8 else "")) or "none"
