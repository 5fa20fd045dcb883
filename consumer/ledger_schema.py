"""A ledger's file: its tables, how it is opened for writing and for reading, and the forms of what is packed in it.

SQLite, because it is in Python's standard library, has transactions that a kill cannot tear, can be read while it is
written, and by anybody's tools. (A Parquet file has no rows until its end is written.) In write-ahead mode a reader
never makes the trainer wait.

Everything that many groups have in common stands once, in tables of its own; a group's row is small integers. No row is
ever changed. Only a resume takes back what lies behind its checkpoint, by the marks that the checkpoint keeps.
"""

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.protocol.errors import RunError

APPLICATION_ID = 0x50656E4C
"""Stands in the file's header, as SQLite's documentation asks: `PenL`."""
VERSION = 1
"""Of the tables."""
FILES = "ledger-*.sqlite"
_NAME = re.compile(r"ledger-\d+\.sqlite")

TABLES: Mapping[str, tuple[str, ...]] = {
    "lives": ("id INTEGER PRIMARY KEY", "settings TEXT NOT NULL"),
    "recipes": ("id INTEGER PRIMARY KEY", "recipe TEXT NOT NULL"),
    "manifests": ("id INTEGER PRIMARY KEY", "manifest TEXT NOT NULL"),
    "producers": ("id INTEGER PRIMARY KEY", "name TEXT NOT NULL", "manifest INTEGER NOT NULL"),
    "concepts": ("id INTEGER PRIMARY KEY", "name TEXT NOT NULL"),
    "prompts": ("id INTEGER PRIMARY KEY", "prompt_id INTEGER NOT NULL", "text TEXT NOT NULL"),
    "groups": (
        "id INTEGER PRIMARY KEY",
        "idx INTEGER NOT NULL",
        "prompt INTEGER NOT NULL",
        "seed INTEGER NOT NULL",
        "recipe INTEGER NOT NULL",
        "producer INTEGER NOT NULL",
        "concept INTEGER",
        "crc32 INTEGER NOT NULL",
        "attempt INTEGER NOT NULL",
        "stand_in INTEGER NOT NULL",
        "num_made INTEGER NOT NULL",
        "num_unsatisfied INTEGER NOT NULL",
        "candidates BLOB",
        "guidance BLOB",
    ),
    "steps": (
        "step INTEGER PRIMARY KEY",
        "life INTEGER NOT NULL",
        "last_group INTEGER NOT NULL",
        "uses BLOB NOT NULL",
    ),
    "quarantined": (
        "id INTEGER PRIMARY KEY",
        "step INTEGER NOT NULL",
        "idx INTEGER NOT NULL",
        "stand_in INTEGER NOT NULL",
        "prompt TEXT NOT NULL",
        "reason TEXT NOT NULL",
    ),
}
"""Columns by table. The first is the row's number: rows have them in the order in which they came."""

# For people and their tools; nothing here reads it.
_VIEW = """
CREATE VIEW made AS
SELECT groups.id, idx, text AS prompt, seed, concepts.name AS concept, producers.name AS producer,
       crc32, attempt, stand_in, num_made, num_unsatisfied, recipes.recipe, manifests.manifest
FROM groups
JOIN prompts ON prompts.id = groups.prompt
JOIN recipes ON recipes.id = groups.recipe
JOIN producers ON producers.id = groups.producer
JOIN manifests ON manifests.id = producers.manifest
LEFT JOIN concepts ON concepts.id = groups.concept
"""

_PAGE_BYTES = 2048
"""Of a new file. Half of SQLite's own: each table has a page of its own, and a short run's are mostly empty."""
_LOG_PAGES = 4096
"""Of the log, before SQLite moves them into the file, for which a step waits some milliseconds."""
PATIENCE_S = 5.0
"""How long SQLite waits for a lock that another process holds for a moment."""

Marks = dict[str, int]
"""The number of the last row of each table; -1 for a table without rows."""
NO_ROWS: Mapping[str, int] = dict.fromkeys(TABLES, -1)
"""The marks of a ledger in which nothing stands."""


@contextmanager
def one_line(path: Path, doing: str) -> Iterator[None]:
    """Let what SQLite says of a file be a RunError: full disk, broken file, no permission."""
    try:
        yield
    except sqlite3.Error as error:
        raise RunError(f"{path} cannot be {doing}: {error}") from error


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open a ledger, begun if it is new; every statement is its own transaction, or says BEGIN.

    Raises sqlite3.Error, and RunError where it is not a ledger of this version.
    """
    db = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)
    try:
        begun = _is_begun(db, path)
        db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        writes_ahead = db.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal"
        if not begun:
            _begin(db)
        # With NORMAL a kill loses nothing, and a power cut what came since the last `sync`. Where the file system has
        # no write-ahead mode SQLite keeps to its rollback journal, which needs FULL for as much.
        db.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        db.execute(f"PRAGMA synchronous = {'NORMAL' if writes_ahead else 'FULL'}")
    except BaseException:
        db.close()
        raise
    return db


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open a ledger that somebody may be writing. Raises sqlite3.Error, and RunError where it is not one."""
    name = path.absolute().as_uri()
    try:
        db = sqlite3.connect(f"{name}?mode=ro", uri=True, timeout=PATIENCE_S, isolation_level=None)
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        log = path.with_name(f"{path.name}-wal")
        if not path.is_file() or (log.exists() and log.stat().st_size):
            raise
        # In a folder where nothing can be written there is no place for the lock; nor for a writer.
        db = sqlite3.connect(f"{name}?mode=ro&immutable=1", uri=True, isolation_level=None)
    try:
        _is_begun(db, path)
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All that is written within, or nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk may have ended it
            db.execute("ROLLBACK")
        raise


def read_marks(db: sqlite3.Connection) -> Marks:
    """Where each table ends now."""
    return {
        table: db.execute(f"SELECT coalesce(max({_key(table)}), -1) FROM {table}").fetchone()[0] for table in TABLES
    }


def find_ledgers(folder: Path) -> list[Path]:
    """The ledgers in a run's folder, of all ranks that any life had; not what somebody has put beside them."""
    return sorted(path for path in folder.glob(FILES) if _NAME.fullmatch(path.name))


def marks_of(path: Path) -> Marks:
    """Where the tables of a ledger end that nobody has open. Raises RunError where it cannot be read."""
    with one_line(path, "read"):
        db = open_for_reading(path)
        try:
            return read_marks(db)
        finally:
            db.close()


def rewind(path: Path, marks: Mapping[str, int]) -> None:
    """Take back the rows behind `marks`; nobody may have the file open for writing.

    Raises RunError where the file is broken, or has less than the marks say.
    """
    if not path.is_file():
        raise RunError(f"{path} is missing, and the checkpoint counts on it; put it back, or begin a new run")
    with one_line(path, "rewound"):
        db = open_for_writing(path)
        try:
            fault = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if fault != "ok":
                raise RunError(f"{path} is damaged ({' '.join(fault.split())}); put a copy back, or begin a new run")
            for table, now in read_marks(db).items():
                if now < marks[table]:
                    raise RunError(
                        f"{path} ends at row {now} of {table}, at the checkpoint it had {marks[table]}; "
                        "put the file back, or begin a new run"
                    )
            with transaction(db):
                for table in TABLES:
                    db.execute(f"DELETE FROM {table} WHERE {_key(table)} > ?", (marks[table],))
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            db.close()


def remove(path: Path) -> None:
    """Delete a ledger and what SQLite keeps beside it."""
    for suffix in ("-wal", "-shm", "-journal", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def pack(numbers: Sequence[int]) -> bytes:
    """Numbers in [0, 2**32), each in as many bits as the largest needs, one after another, the lowest bit first.

    The first byte has these bits, less 1, in its lower five; in its upper three how many numbers the last byte would
    have room for that are none.
    """
    num_bits = max(1, max(numbers, default=0).bit_length())
    ones = np.asarray(numbers, np.uint32)[:, None] >> np.arange(num_bits, dtype=np.uint32) & 1
    packed = np.packbits(ones.astype(np.uint8), bitorder="little").tobytes()
    num_none = 8 * len(packed) // num_bits - len(numbers)
    return bytes([num_bits - 1 | num_none << 5]) + packed


def unpack(packed: bytes) -> NDArray[np.int64]:
    """The numbers that `pack` has packed: int64 [N]."""
    num_bits = (packed[0] & 31) + 1
    ones = np.unpackbits(np.frombuffer(packed, np.uint8, offset=1), bitorder="little")
    num_numbers = len(ones) // num_bits - (packed[0] >> 5)
    ones_NB = ones[: num_numbers * num_bits].reshape(num_numbers, num_bits).astype(np.int64)
    return ones_NB @ (1 << np.arange(num_bits, dtype=np.int64))


def pack_scales(scales: Sequence[float]) -> bytes:
    """Guidance scales, packed in thousandths: a recipe's are multiples of 0.001."""
    return pack([round(1000 * scale) for scale in scales])


def unpack_scales(packed: bytes) -> tuple[float, ...]:
    """The guidance scales that `pack_scales` has packed."""
    return tuple(number / 1000 for number in unpack(packed).tolist())


def _key(table: str) -> str:
    return TABLES[table][0].partition(" ")[0]


def _is_begun(db: sqlite3.Connection, path: Path) -> bool:
    """Whether the file has the tables. Raises RunError where it has others."""
    found = db.execute("PRAGMA application_id").fetchone()[0], db.execute("PRAGMA user_version").fetchone()[0]
    if found == (APPLICATION_ID, VERSION):
        return True
    if found == (0, 0) and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        return False
    if found[0] != APPLICATION_ID:
        raise RunError(f"{path} is an SQLite file, but no ledger")
    raise RunError(f"{path} is a ledger of version {found[1]}, not {VERSION}; use the penstock that wrote it")


def _begin(db: sqlite3.Connection) -> None:
    with transaction(db):
        for table, columns in TABLES.items():
            db.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
        db.execute(_VIEW)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {VERSION}")
