"""Which files a set in several shards consists of: one file, a pattern, or a folder with its splits.

A split is a folder (`train/00.tar`) or how the shards' names begin (`train-00.tar`), below the folder itself or its
`data/`, where Hugging Face's exports have them.
"""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from penstock.protocol.errors import ConfigError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_PREFIX = re.compile(r"[A-Za-z0-9_.]*?(?=-\d)")


def find_shards(spec: str, split: str, suffixes: Sequence[str]) -> list[Path]:
    """The shards that `spec` means, sorted, with any of `suffixes`.

    Args:
        spec: a file, a folder, or a pattern with `*`, `?`, `[...]` or `{000..009}`.
        split: a folder of shards or the beginning of their names; empty for all.
        suffixes: of shards, in lower case.

    Raises ConfigError where there are none, or where a number of `{000..009}` is missing.
    """
    found = [path for text in _expand(spec) for path in _matches(text, suffixes)]
    if not found:
        raise ConfigError(f"{spec} names no files ({', '.join(suffixes)})")
    chosen = [path for path in found if not split or path.parent.name == split or _begins(path.name, split)]
    if not chosen:
        splits = sorted({_split_of(path, Path(spec)) for path in found})
        raise ConfigError(f"{spec} has no split {split!r}; there is {', '.join(splits[:8])}")
    return chosen


def has_shards(folder: Path, suffixes: Sequence[str]) -> bool:
    """Whether a folder is a set of such shards."""
    return any(_is_shard(path, suffixes) for path in _below(folder))


def _expand(spec: str) -> Iterator[str]:
    """`a-{08..10}` as `a-08`, `a-09`, `a-10`; the numbers are as wide as the first."""
    match = _RANGE.search(spec)
    if match is None:
        yield spec
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expand(f"{spec[: match.start()]}{number:0{len(first)}d}{spec[match.end() :]}")


def _matches(text: str, suffixes: Sequence[str]) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        return [shard for shard in _below(path) if _is_shard(shard, suffixes)]
    if path.is_file():
        return [path]
    found = sorted(Path(name) for name in glob.glob(text, recursive=True))
    if not found:
        raise ConfigError(f"{text} is not there")
    return [shard for shard in found if _is_shard(shard, suffixes)]


def _below(folder: Path) -> list[Path]:
    """The files of a folder and of those in it, sorted: `data/` and splits."""
    return sorted(path for pattern in ("*", "*/*", "data/*/*") for path in folder.glob(pattern) if path.is_file())


def _is_shard(path: Path, suffixes: Sequence[str]) -> bool:
    return path.name.lower().endswith(tuple(suffixes))


def _begins(name: str, split: str) -> bool:
    """Whether a shard's name is the split's, not that of another which begins alike (`val` and `validation`)."""
    rest = name.removeprefix(split)
    return rest != name and not rest[:1].isalpha()


def _split_of(path: Path, spec: Path) -> str:
    """The split that a shard seems to belong to, for errors."""
    if path.parent not in (spec, spec / "data") and spec.is_dir():
        return path.parent.name
    match = _PREFIX.match(path.name)
    return match.group() if match and match.group() else path.name


def shard_names(shards: Sequence[Path]) -> list[str]:
    """What to call shards in keys: their paths below the folder that they share, without suffix."""
    shared = Path(os.path.commonpath([shard.parent for shard in shards]))
    return [shard.relative_to(shared).with_suffix("").as_posix() for shard in shards]
