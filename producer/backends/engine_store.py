"""Keeps compiled engines on disk, under a manifest of our own.

    engines/                            in the cache (cache.py)
    ├── KEY.lock                        held shared to read, exclusive to write; the kernel frees it with its holder
    ├── KEY/engine.pt2, manifest.json   made complete in a folder beside it, then renamed
    └── timing-CLASS.cache              TensorRT's kernel timings

An engine file is code: loading one unpickles. So a file is loaded only where its SHA-256 is that of the manifest, from
a folder that nobody else can write to. The manifest repeats in full what the key is a digest of, and is compared in
full, so an engine copied from another kind of machine is not taken for one's own.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from penstock.producer.backends.cache import private_folder, require_private
from penstock.protocol.errors import ModelError

_log = logging.getLogger(__name__)

FORMAT = 1
ENGINE = "engine.pt2"
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineIdentity:
    """All that an engine depends on, but its weights."""

    part: str
    architecture: str
    """Digest of the exported graph."""
    inputs: list[str]
    """Dtype, shape and device of each."""
    settings: dict[str, Any]
    """What the compiler was told."""
    gpu: str
    """Name of the device."""
    capability: str
    """Its compute capability."""
    versions: dict[str, str]
    """Of torch, torch_tensorrt, tensorrt, diffusers."""

    @property
    def key(self) -> str:
        """SHA-256 as hex: the folder's name."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def timing_class(self) -> str:
        """What kernel timings depend on, as hex."""
        measured_with = [self.gpu, self.capability, self.versions.get("tensorrt", "")]
        return hashlib.sha256(json.dumps(measured_with).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class StoredEngine:
    """An engine file whose content is what its manifest says."""

    path: Path
    weights: str
    """Digest of the weights in it."""


class EngineStore:
    """Engines of one user on one machine.

    Args:
        root: the cache; None takes PENSTOCK_CACHE, or ~/.cache/penstock.

    Raises:
        ModelError: the folder cannot be made, or others can write to it.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._folder = private_folder("engines", root)

    @contextmanager
    def lock(self, identity: EngineIdentity, *, exclusive: bool) -> Iterator[None]:
        """Held by everyone who reads (shared) or makes (exclusive) this engine, across processes and threads."""
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        with (self._folder / f"{identity.key}.lock").open("a") as file:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.info("waiting for another producer that makes the engine of part %r", identity.part)
                fcntl.flock(file, kind)
            yield

    def find(self, identity: EngineIdentity) -> StoredEngine | None:
        """The engine, if it is there and whole; else None, with a warning where something is there. Under the lock.

        Raises ModelError where others can write to its folder.
        """
        folder = self._folder / identity.key
        if not folder.exists():
            return None
        require_private(folder)
        try:
            return _read(folder, identity)
        except (KeyError, OSError, TypeError, ValueError) as error:
            _log.warning("stored engine %s is not used: %s; compiling part %r anew", folder, error, identity.part)
            return None

    def put(self, identity: EngineIdentity, weights: str, save: Callable[[Path], None]) -> None:
        """Keep an engine, in place of what the key holds. Under the exclusive lock.

        `save` writes the engine file. A full or failing disk costs the engine its place, with a warning, and no more.
        """
        for stale in self._folder.glob(f".{identity.key}-*"):  # of a process that was killed while it held the lock
            shutil.rmtree(stale, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=f".{identity.key}-", dir=self._folder))
        try:
            save(made / ENGINE)
            manifest = {
                "format": FORMAT,
                "identity": asdict(identity),
                "weights": weights,
                "sha256": _file_digest(made / ENGINE),
            }
            (made / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
            for path in (made / ENGINE, made / MANIFEST):
                _sync(path)
            shutil.rmtree(self._folder / identity.key, ignore_errors=True)
            made.rename(self._folder / identity.key)
        except (OSError, ModelError) as error:
            _log.warning("the engine of part %r is not kept in %s: %s", identity.part, self._folder, error)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    @contextmanager
    def timing_cache(self, identity: EngineIdentity) -> Iterator[Path]:
        """A private copy of TensorRT's timing cache, which takes the cache's place afterwards; the last one wins."""
        cache = self._folder / f"timing-{identity.timing_class}.cache"
        with tempfile.TemporaryDirectory(prefix=".timing-", dir=self._folder) as folder:
            copy = Path(folder) / "timing.cache"
            with suppress(FileNotFoundError):
                shutil.copyfile(cache, copy)
            yield copy
            with suppress(FileNotFoundError):
                copy.replace(cache)


def _read(folder: Path, identity: EngineIdentity) -> StoredEngine:
    """Raises ValueError or its like for whatever is not as `put` left it."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if manifest["format"] != FORMAT:
        raise ValueError(f"its manifest has format {manifest['format']!r}, this is {FORMAT}")
    if manifest["identity"] != asdict(identity):
        raise ValueError("its manifest describes another engine")
    if _file_digest(folder / ENGINE) != manifest["sha256"]:
        raise ValueError("its SHA-256 is not that of its manifest")
    return StoredEngine(folder / ENGINE, str(manifest["weights"]))


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
