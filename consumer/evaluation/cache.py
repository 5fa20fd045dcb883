"""Features kept between evaluations, under names that say all they depend on.

The name is a hash over the encoder's weights and configuration, its preprocessing, the set's digest, the rows and the
device: whatever changes, the name does, and the old file is never found again. (The reference code names its caches by
file, and so serves the features of weights that have been trained on since.) Files are written aside and renamed, and
those that were used longest ago make room.
"""

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from penstock.protocol.errors import ConfigError

_log = logging.getLogger(__name__)
_VERSION = 1
"""Of how features are made from weights and pixels: a change of that code raises it."""
_OWN = re.compile(r"[0-9a-f]{64}\.safetensors")


def cache_key(parts: Mapping[str, Any]) -> str:
    """The name of what depends on `parts`, which are plain values: 64 hex digits."""
    return hashlib.sha256(json.dumps({"version": _VERSION, **parts}, sort_keys=True).encode()).hexdigest()


class FeatureCache:
    """Tensors by key in a folder, at most `max_bytes` of them.

    Args:
        folder: made where it is missing; None keeps nothing.
        max_bytes: the least recently used go where there would be more; the newest stays whatever its size.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"cache {folder} cannot be a folder: {error.strerror}; give --cache none") from error

    def load(self, key: str) -> dict[str, Tensor] | None:
        """What was saved under `key`; None where nothing is, or where the file is broken."""
        found = self._read(key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def save(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under `key`. A full disk or a forbidden folder costs the cache and no more: it is logged."""
        if self._folder is None:
            return
        path = self._path(self._folder, key)
        try:
            handle, unfinished = tempfile.mkstemp(dir=self._folder, prefix=f"{key[:8]}-", suffix=".tmp")
            os.close(handle)
            try:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished)
                os.replace(unfinished, path)
            finally:
                Path(unfinished).unlink(missing_ok=True)
            self._make_room(path)
        except (OSError, SafetensorError) as error:
            _log.warning("features are not kept in %s: %s", self._folder, error)

    @property
    def size_bytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(size for _, size, _ in self._files())

    def _read(self, key: str) -> dict[str, Tensor] | None:
        if self._folder is None:
            return None
        path = self._path(self._folder, key)
        try:
            tensors = load_file(path)
            os.utime(path)  # it was used now
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            _log.warning("%s is not used: %s", path, error)
            return None
        return tensors

    def _make_room(self, newest: Path) -> None:
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= self._max_bytes:
                return
            if path != newest:
                path.unlink(missing_ok=True)
                total -= size

    def _files(self) -> list[tuple[float, int, Path]]:
        """When each file was used last, its bytes and where it lies; another process may take one away meanwhile."""
        found = []
        for path in self._folder.iterdir() if self._folder else ():
            if _OWN.fullmatch(path.name):
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue
                found.append((status.st_mtime, status.st_size, path))
        return found

    @staticmethod
    def _path(folder: Path, key: str) -> Path:
        return folder / f"{key}.safetensors"
