"""The run folder: what a run leaves behind. It holds no image but one picture for people, and what trackers are shown.

A folder is never overwritten or continued by accident: a run needs an empty one, or `--overwrite`, or `--resume`.
"""

import fcntl
import json
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.protocol.errors import RunError

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".npy", ".npz", ".tar"}


PREVIOUS = "checkpoint.old"
"""Where the last checkpoint lies while the next takes its place."""
CHECKPOINT_STATE = "state.json"
"""The file of a checkpoint that is written last."""
LOCK = "run.lock"
"""Held by the trainer that runs in the folder. It stays: to delete it would let two trainers hold two locks."""
LOGS = "logs"
"""Folder of the processes' logs. Who launches them writes it and clears it, before there is a run."""
FLAG = "--run-dir"
"""What names the folder, for errors."""
PROMPTS = "prompts.tsv"
"""What was made of `--ask`, for all ranks and for later lives: a table of concepts and captions."""


_OWN = re.compile(
    r"run\.json|run\.lock|summary\.json(\.tmp)?|picture\.png|encoder|pair|checkpoint(\.tmp|\.old)?"
    r"|ledger-\d+\.sqlite(-wal|-shm|-journal)?|(image-)?producer-\d+\.log|tracking|audit|embeddings|prompts\.tsv(\.tmp)?"
    r"|report\.(txt|html)(\.tmp)?"
    r"|trace-\d+-\d+\.json(\.tmp)?|trace\.json(\.gz)?(\.tmp)?"
)
"""What a run or a profile writes; nothing else is ever deleted."""


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
    def pair(self) -> Path:
        """Encoder and text tower as one zero-shot model, an ordinary Hugging Face folder; only where text was read."""
        return self.path / "pair"

    @property
    def prompts(self) -> Path:
        """The prompts that were asked for; only where they were."""
        return self.path / PROMPTS

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoint"

    def ledger(self, rank: int) -> Path:
        """What each step of `rank` trained on."""
        return self.path / f"ledger-{rank}.sqlite"

    def producer_log(self, number: int) -> Path:
        """Output of a producer that the run started itself."""
        return self.path / f"producer-{number}.log"

    def image_producer_log(self, number: int) -> Path:
        """Output of a producer of real images that the run started itself."""
        return self.path / f"image-producer-{number}.log"

    @property
    def tracking(self) -> Path:
        """Files of experiment trackers; only where the run has some."""
        return self.path / "tracking"

    def image_bytes(self) -> int:
        """Bytes of image files in the folder, apart from what was asked for to look at: picture and trackers' files."""
        files = (
            path
            for path in self.path.rglob("*")
            if path.suffix.lower() in _IMAGE_SUFFIXES and path != self.picture and self.tracking not in path.parents
        )
        return sum(path.stat().st_size for path in files)


def check(path: Path, *, overwrite: bool, resume: bool, flag: str = FLAG) -> None:
    """Raise RunError where the folder is taken, or where there is nothing to resume. Changes nothing.

    `flag` is what names the folder, for errors; as in what follows.
    """
    if resume:
        if not any((path / name / CHECKPOINT_STATE).is_file() for name in ("checkpoint", PREVIOUS)):
            raise RunError(f"{path} has no checkpoint to resume; leave --resume out to begin a new run")
        return
    if not path.exists():
        return
    names = {entry.name for entry in path.iterdir()} - {LOCK, LOGS} if path.is_dir() else {path.name}
    if not names:
        return
    if not overwrite:
        raise RunError(f"{path} is not empty; pass --overwrite, --resume, or another {flag}")
    if not (path / "run.json").is_file():
        raise RunError(f"{path} holds something that is not a run (no run.json); --overwrite does not delete that")
    strangers = sorted(name for name in names if not _OWN.fullmatch(name))
    if strangers:
        raise RunError(f"{path} holds {strangers[0]!r}, which no run writes; move it, or choose another {flag}")


@contextmanager
def lock(path: Path, flag: str = FLAG) -> Iterator[None]:
    """Hold the folder, which is made where it is missing; freed at the end, and by death. For rank 0.

    Raises RunError where another trainer holds it.
    """
    with _one_line(path, flag):
        path.mkdir(parents=True, exist_ok=True)
        file = (path / LOCK).open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another trainer is running in {path}; end it, or choose another {flag}") from error
        yield


def prepare(path: Path, *, overwrite: bool, resume: bool, flag: str = FLAG, endpoint: str = "") -> RunFolder:
    """Make the folder ready for a new life of a run and write down who it is. For rank 0, which holds the lock.

    `endpoint` is where that rank listens, for who launches producers.

    Raises RunError as `check` does, and where the folder cannot be written.
    """
    with _one_line(path, flag):
        check(path, overwrite=overwrite, resume=resume, flag=flag)
        incarnation = time.time_ns()
        if resume:
            _finish_renames(path)
            run_id = read(path).run_id
            # The clock may have been set back between two lives.
            incarnation = max(incarnation, read(path).incarnation + 1)
        else:
            path.mkdir(parents=True, exist_ok=True)
            _clear(path)
            run_id = secrets.token_hex(8)
        identity = {"run_id": run_id, "incarnation": incarnation, "endpoint": endpoint}
        (path / "run.json").write_text(json.dumps(identity, indent=2) + "\n")
    return read(path)


@contextmanager
def _one_line(path: Path, flag: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be a run folder: {error.strerror or error}; choose another {flag}") from error


def _finish_renames(path: Path) -> None:
    """Put the last checkpoint back where the run was killed between two renames."""
    checkpoint, previous = path / "checkpoint", path / PREVIOUS
    if previous.is_dir() and not checkpoint.exists():
        previous.rename(checkpoint)


def _clear(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name in (LOCK, LOGS):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def endpoint_after(path: Path, incarnation: int | None) -> str:
    """Where the life of a run listens that followed on another, or on none; empty while none has."""
    try:
        identity = json.loads((path / "run.json").read_text())
        return "" if identity["incarnation"] == incarnation else str(identity["endpoint"])
    except (OSError, ValueError, KeyError, TypeError):  # not there, just being written, or another program's
        return ""


def read(path: Path) -> RunFolder:
    """The folder that rank 0 has prepared. Raises RunError where its identity is missing or broken."""
    try:
        identity = json.loads((path / "run.json").read_text())
        return RunFolder(path, str(identity["run_id"]), int(identity["incarnation"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}/run.json is missing or broken; begin a new run in another --run-dir") from error
