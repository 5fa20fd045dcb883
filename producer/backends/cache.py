"""Where compiled networks are kept: a folder of one's own, because what lies there is run.

PENSTOCK_CACHE or ~/.cache/penstock     0700; refused where others can write
"""

import os
import stat
from pathlib import Path

from penstock.protocol.errors import ModelError


def private_folder(name: str, root: Path | None = None) -> Path:
    """The folder `name` of the cache, made where it is not there.

    Args:
        name: of the folder.
        root: the cache; None takes PENSTOCK_CACHE, or ~/.cache/penstock.

    Raises ModelError where it cannot be made, or where others can write to it.
    """
    root = root or Path(os.environ.get("PENSTOCK_CACHE") or "~/.cache/penstock").expanduser()
    for folder in (root, root / name):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(f"engine cache {folder} cannot be made: {error}; set PENSTOCK_CACHE") from error
        require_private(folder)
    return root / name


def require_private(folder: Path) -> None:
    """Whoever can write to the folder can run what they like here. Raises ModelError where that is another user."""
    found = folder.stat()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.getuid():
        raise ModelError(f"engine cache {folder} belongs to user {found.st_uid}; set PENSTOCK_CACHE to your own folder")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ModelError(f"engine cache {folder} can be written to by others (mode {mode:o}); chmod 700 it")
