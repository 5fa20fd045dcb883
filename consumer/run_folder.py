"""The run folder: what a run leaves behind. It holds no image but one picture for people.

A folder is never overwritten or continued by accident: a run needs an empty one, or `--overwrite`, or `--resume`.
"""

import json
import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from penstock.protocol.errors import RunError

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".npy", ".npz", ".tar"}


PREVIOUS = "checkpoint.old"
"""Where the last checkpoint lies while the next takes its place."""


_OWN = re.compile(
    r"run\.json|summary\.json(\.tmp)?|picture\.png|encoder|checkpoint(\.tmp|\.old)?|ledger-\d+\.jsonl|producer-\d+\.log"
)
"""What a run writes; nothing else is ever deleted."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run, and its identity."""

    path: Path
    run_id: str
    incarnation: int

    @property
    def summary(self) -> Path:
        """What the run did, as JSON."""
        return self.path / "summary.json"

    @property
    def picture(self) -> Path:
        """The one picture: prompts with their groups, and the curves."""
        return self.path / "picture.png"

    @property
    def encoder(self) -> Path:
        """The trained encoder, an ordinary Hugging Face folder."""
        return self.path / "encoder"

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoint"

    def ledger(self, rank: int) -> Path:
        """What each step of `rank` trained on."""
        return self.path / f"ledger-{rank}.jsonl"

    def producer_log(self, number: int) -> Path:
        """Output of a producer that the run started itself."""
        return self.path / f"producer-{number}.log"

    def image_bytes(self) -> int:
        """Bytes of image files in the folder, the one picture apart."""
        files = (
            path for path in self.path.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES and path != self.picture
        )
        return sum(path.stat().st_size for path in files)


def prepare(path: Path, *, overwrite: bool, resume: bool) -> RunFolder:
    """Make the folder ready for a new life of a run and write down who it is. For rank 0.

    Raises RunError where the folder is taken, or where there is nothing to resume.
    """
    identity = path / "run.json"
    try:
        if resume:
            run_id = _resumed(path)
        else:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                _clear(path, identity, overwrite)
            path.mkdir(parents=True, exist_ok=True)
            run_id = secrets.token_hex(8)
        incarnation = time.time_ns()
        if resume:
            # The clock may have been set back between two lives.
            incarnation = max(incarnation, read(path).incarnation + 1)
        identity.write_text(json.dumps({"run_id": run_id, "incarnation": incarnation}, indent=2) + "\n")
    except OSError as error:
        raise RunError(f"{path} cannot be a run folder: {error.strerror or error}; choose another --run-dir") from error
    return read(path)


def _resumed(path: Path) -> str:
    """The id of the run whose checkpoint lies in `path`."""
    checkpoint, previous = path / "checkpoint", path / PREVIOUS
    if previous.is_dir() and not checkpoint.exists():
        # The run was killed between two renames.
        previous.rename(checkpoint)
    if not (checkpoint / "feed-0.json").is_file():
        raise RunError(f"{path} has no checkpoint to resume; leave --resume out to begin a new run")
    return read(path).run_id


def _clear(path: Path, identity: Path, overwrite: bool) -> None:
    if not overwrite:
        raise RunError(f"{path} is not empty; pass --overwrite, --resume, or another --run-dir")
    if not identity.is_file():
        raise RunError(f"{path} holds something that is not a run (no run.json); --overwrite does not delete that")
    strangers = sorted(entry.name for entry in path.iterdir() if not _OWN.fullmatch(entry.name))
    if strangers:
        raise RunError(f"{path} holds {strangers[0]!r}, which no run writes; move it, or choose another --run-dir")
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def read(path: Path) -> RunFolder:
    """The folder that rank 0 has prepared. Raises RunError where its identity is missing or broken."""
    try:
        identity = json.loads((path / "run.json").read_text())
        return RunFolder(path, str(identity["run_id"]), int(identity["incarnation"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}/run.json is missing or broken; begin a new run in another --run-dir") from error
