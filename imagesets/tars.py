"""WebDataset shards: tars whose members `KEY.jpg`, `KEY.txt`, `KEY.cls` or `KEY.json` make one sample.

Training draws rows in any order, so the shards are not streamed: one walk over their headers notes where each image
lies, and an image is one read. That needs uncompressed tars, as the format recommends.
https://github.com/webdataset/webdataset
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from penstock.imagesets.columns import CAPTION, LABEL, find_column, first_text
from penstock.imagesets.decoding import SUFFIXES
from penstock.imagesets.labels import read_labels
from penstock.imagesets.rows import StoredImages, gather
from penstock.imagesets.shards import find_shards, shard_names
from penstock.protocol.errors import ConfigError

TARS = (".tar",)
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.zstd")
_CAPTIONS = (".txt", ".caption", ".text")
_MAX_TEXT_BYTES = 1 << 20


@dataclass(slots=True)
class _Sample:
    """One sample as its members are met."""

    key: str
    shard: Path
    offset: int = -1
    """Where its image begins, in bytes; negative while there is none."""
    size: int = 0
    caption: str | None = None
    label: object = None


def open_tars(spec: str, split: str) -> StoredImages:
    """The samples of all shards that have an image. Raises ConfigError where there are none, or a shard is no tar."""
    shards = find_shards(spec, split, (*TARS, *COMPRESSED))
    for shard in shards:
        if shard.name.lower().endswith(COMPRESSED):
            raise ConfigError(f"{shard} is compressed, and images are read in any order; unpack it to a plain .tar")
    samples = [
        sample
        for shard, name in zip(shards, shard_names(shards), strict=True)
        for sample in _walk(shard, name)
        if sample.offset >= 0
    ]
    where = f"{Path(spec).name}/{split}" if split else Path(spec).name
    captioned = any(sample.caption is not None for sample in samples)
    labels = read_labels([sample.label for sample in samples], where)
    captions = [sample.caption or "" for sample in samples] if captioned else None
    rows = gather(where, [sample.key for sample in samples], captions, labels, [sample.size for sample in samples])
    places = [(sample.shard, sample.offset, sample.size) for sample in samples]

    def read(row: int) -> bytes:
        shard, offset, size = places[row]
        with shard.open("rb") as file:
            file.seek(offset)
            found = file.read(size)
        if len(found) < size:
            raise OSError(f"{shard} is shorter than it was")
        return found

    return StoredImages(rows, read)


def _walk(shard: Path, name: str) -> Iterator[_Sample]:
    """The samples of one shard, in its order: neighbours with one key are one sample."""
    sample: _Sample | None = None
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, slash, base = member.name.rpartition("/")
                stem, dot, suffix = base.partition(".")
                key = f"{name}/{folder}{slash}{stem}"
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield sample
                    sample = _Sample(key, shard)
                _add(sample, f"{dot}{suffix}".lower(), tar, member)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ConfigError(f"{shard} cannot be read as a tar: {error}") from error
    if sample is not None:
        yield sample


def _add(sample: _Sample, suffix: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Take what a member says; what none of the suffixes is known by is left alone."""
    if suffix.endswith(SUFFIXES):
        if sample.offset < 0:
            sample.offset, sample.size = member.offset_data, member.size
    elif suffix in _CAPTIONS:
        sample.caption = _text(tar, member).strip()
    elif suffix == ".cls":
        sample.label = _text(tar, member).strip()
    elif suffix == ".json":
        _add_json(sample, _text(tar, member))


def _add_json(sample: _Sample, text: str) -> None:
    """Caption and label from a sample's JSON, where it has no members of their own."""
    try:
        said = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{sample.shard}: {sample.key}.json is no JSON: {error}") from error
    if not isinstance(said, dict):
        return
    caption, label = find_column(said, CAPTION), find_column(said, LABEL)
    if sample.caption is None and caption is not None:
        sample.caption = first_text(said[caption])
    if sample.label is None and label is not None:
        sample.label = said[label]


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    content = b"" if file is None else file.read(_MAX_TEXT_BYTES)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{tar.name!s}: {member.name} is not UTF-8") from error
