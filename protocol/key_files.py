"""Files that only their owner may read: secrets and who is allowed, read with suspicion and replaced as a whole.

A file that others may read, or replace, protects nobody, so it is refused by name. A file of root's may be read by a
group, as a Secret of Kubernetes that a program of another user gets (PostgreSQL has the same rule for its key).
"""

import os
import stat
import tempfile
from pathlib import Path
from typing import Final

from penstock.protocol.errors import KeyFileError

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
_ROOT: Final = 0


def read_private(path: Path) -> str:
    """The text of a file that nobody else can read or replace. Raises KeyFileError."""
    look_at(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path} cannot be read: {error}") from error


def look_at(path: Path) -> os.stat_result:
    """What the system says of a file, once it is seen that nobody else can read or replace it. Raises KeyFileError."""
    check_folder(path.parent)
    try:
        found = path.stat()
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}; `penstock keys` makes such files") from error
    if not stat.S_ISREG(found.st_mode):
        raise KeyFileError(f"{path} is not a file; name one that `penstock keys` has made")
    mode, me = stat.S_IMODE(found.st_mode), os.geteuid()
    if found.st_uid not in (_ROOT, me):
        raise KeyFileError(f"{path} belongs to user {found.st_uid}, who could change it; make it yours: chown")
    open_to = 0o077 if found.st_uid == me else 0o037
    if mode & open_to:
        raise KeyFileError(f"{path} is open to others (mode {mode:04o}); chmod 600 {path}")
    return found


def check_folder(folder: Path) -> None:
    """That nobody else can put another file in the place of one in `folder`. Raises KeyFileError."""
    try:
        found = folder.stat()
    except OSError as error:
        raise KeyFileError(
            f"{folder} cannot be read: {error.strerror}; `penstock keys init {folder}` makes it"
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise KeyFileError(f"{folder} is not a folder; `penstock keys init` makes one")
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in (_ROOT, os.geteuid()):
        raise KeyFileError(
            f"{folder} belongs to user {found.st_uid}, who could replace what lies in it; choose another"
        )
    # In a sticky folder (/tmp, a volume of Kubernetes) nobody replaces the files of others.
    if mode & 0o022 and not mode & stat.S_ISVTX:
        raise KeyFileError(
            f"{folder} can be written by others (mode {mode:04o}), who could replace keys; chmod 700 {folder}"
        )


def write_new(path: Path, text: str) -> None:
    """Write a file that was not there before, for its owner alone. Raises KeyFileError where it is there."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "w", encoding="utf-8") as file:
            file.write(text)
            _settle(file.fileno())
    except FileExistsError as error:
        raise KeyFileError(
            f"{path} is there already, and keys are never overwritten; choose another name or folder"
        ) from error
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}") from error


def replace(path: Path, text: str) -> None:
    """Write a file anew, for its owner alone. Whoever reads meanwhile sees the old one or the new one, whole."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                _settle(file.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}") from error


def _settle(descriptor: int) -> None:
    """However the umask is, and whatever the power does."""
    os.fchmod(descriptor, FILE_MODE)
    os.fsync(descriptor)
