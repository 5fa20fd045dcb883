"""One rank's ledger as it is read: its rows as recipes, and the uses of its steps.

`ledger_reader.py` puts those of all ranks together. It imports no torch.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.ledger_schema import find_ledgers, one_line, open_for_reading, unpack, unpack_scales
from penstock.protocol.errors import RunError
from penstock.protocol.limits import MAX_INT
from penstock.protocol.tickets import Manifest, Recipe, normalise_prompt

_GROUPS = """
SELECT groups.id, idx, text, seed, recipe, producer, concepts.name, crc32, attempt, stand_in, num_made, num_unsatisfied,
       candidates, guidance
FROM groups JOIN prompts ON prompts.id = groups.prompt LEFT JOIN concepts ON concepts.id = groups.concept
"""
_GROUPS_AT_ONCE = 500
"""Groups that are read at a time."""
_STEPS_AT_ONCE = 1000
"""Steps that are read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerGroup:
    """A group that came, and all that makes its images again."""

    index: int
    """Global index in the run."""
    rank: int
    """To which it came."""
    attempt: int
    """How many times its ticket had been handed out before."""
    stand_in: int
    """0, or which stand-in it is for the group that no producer could make."""
    crc32: int
    """CRC-32 of the frame as it was sent: raw pixels, or JPEGs; 0 where it is not known."""
    num_made: int
    """Candidates that were made and scored; 0 where no filter chose."""
    num_unsatisfied: int = 0
    """Images of it that the filter had rejected, and that made up what lacked."""
    recipe: Recipe
    """Remakes exactly these images."""
    producer: str
    manifest: Manifest
    concept: str
    """Class of its prompt; empty where it has none."""
    first_step: int
    """The step before which it came."""


class LedgerFile:
    """One rank's ledger."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self._path = path
        self._db = db
        self.rank = int(path.stem.rpartition("-")[2])
        self._ends: tuple[NDArray[np.int64], NDArray[np.int64]] = (np.empty(0, np.int64), np.empty(0, np.int64))
        self.recipe = lru_cache(self._read_recipe)
        """What the recipes of a row of `recipes` share."""
        self.producer = lru_cache(self._read_producer)
        """Name and manifest of a row of `producers`."""
        db.create_function("normalised", 1, normalise_prompt, deterministic=True)

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What the file answers; read to its end, so that no reader holds up the writer's log. Raises RunError."""
        with one_line(self._path, "read"):
            return self._db.execute(query, values).fetchall()

    def groups(
        self, wanted: Sequence[tuple[str, Any]], rows: Set[int] | None, indices: Set[int] | None
    ) -> Iterator[LedgerGroup]:
        """Groups in order of their index.

        Args:
            wanted: conditions in SQL, each with its value.
            rows, indices: of groups that may be given; None for all.
        """
        conditions = ["1", *(condition for condition, _ in wanted)]
        if rows is not None:
            conditions.append(f"id IN ({','.join(map(str, rows))})")
        query = f"SELECT id, idx FROM groups WHERE {' AND '.join(conditions)} ORDER BY idx, id"
        with one_line(self._path, "read"):
            found = np.fromiter(self._db.execute(query, [value for _, value in wanted]), "i8, i8")
        ids = found["f0"]
        if indices is not None:
            ids = ids[np.isin(found["f1"], np.fromiter(indices, np.int64, len(indices)))]
        for start in range(0, len(ids), _GROUPS_AT_ONCE):
            yield from self.groups_at(ids[start : start + _GROUPS_AT_ONCE].tolist())

    def groups_at(self, rows: Sequence[int]) -> list[LedgerGroup]:
        """The groups in these rows, in their order; without those that a resume has taken back meanwhile."""
        found = {row[0]: row for row in self.rows(f"{_GROUPS} WHERE groups.id IN ({','.join(map(str, rows))})")}
        return [self._group(*found[row]) for row in rows if row in found]

    def used(self, step: int) -> list[int]:
        """The rows of the groups that a step used, in the order of its batch."""
        rows: list[int] = next((used.tolist() for _, used in self.used_between(step, step + 1)), [])
        return rows

    def used_between(self, start: int, stop: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Each step in [start, stop), with the rows of the groups that it used: int64 [G]."""
        query = "SELECT step, last_group, uses FROM steps WHERE step >= ? AND step < ? ORDER BY step LIMIT ?"
        while rows := self.rows(query, (start, stop, _STEPS_AT_ONCE)):
            for step, last, uses in rows:
                yield step, last - unpack(uses)
            start = rows[-1][0] + 1

    def use_counts(self, num_rows: int) -> NDArray[np.int64]:
        """How many steps used each of the first rows of `groups`: int64 [num_rows]."""
        counts = np.zeros(num_rows + 1, np.int64)
        for _, used in self.used_between(0, MAX_INT):
            # A step that came after the rows were counted names more of them.
            np.add.at(counts, used[used <= num_rows], 1)
        return counts[1:]

    def indices(self) -> NDArray[np.int64]:
        """The global index of each row of `groups`, from row 1 on: int64 [N]."""
        with one_line(self._path, "read"):
            return np.fromiter((idx for (idx,) in self._db.execute("SELECT idx FROM groups ORDER BY id")), np.int64)

    def step_bounds(self) -> tuple[int, int] | None:
        """First and last step; None where there is none."""
        ((first, last),) = self.rows("SELECT (SELECT min(step) FROM steps), (SELECT max(step) FROM steps)")
        return None if first is None else (first, last)

    def num_bytes(self) -> int:
        """What it takes on the disk, its log included."""
        files = (self._path, self._path.with_name(f"{self._path.name}-wal"))
        return sum(path.stat().st_size for path in files if path.exists())

    def settings_at(self, step: int) -> dict[str, Any]:
        """What the life that made a step was told to do."""
        query = "SELECT settings FROM lives JOIN steps ON steps.life = lives.id WHERE step = ?"
        settings: dict[str, Any] = json.loads(self.rows(query, (step,))[0][0])
        return settings

    def first_step(self, row: int) -> int:
        """The step before which a row of `groups` came. Raises RunError where a resume has taken it back meanwhile."""
        steps, last_groups = self._ends
        if not len(last_groups) or last_groups[-1] < row:
            table = np.array(self.rows("SELECT step, last_group FROM steps ORDER BY step"), np.int64).reshape(-1, 2)
            self._ends = steps, last_groups = table[:, 0], table[:, 1]
            if not len(last_groups) or last_groups[-1] < row:
                raise RunError(f"{self._path} has lost row {row} while it was read: the run was resumed; ask again")
        return int(steps[np.searchsorted(last_groups, row)])

    def _group(
        self,
        row: int,
        index: int,
        prompt: str,
        seed: int,
        recipe: int,
        producer: int,
        concept: str | None,
        crc32: int,
        attempt: int,
        stand_in: int,
        num_made: int,
        num_unsatisfied: int,
        candidates: bytes | None,
        guidance: bytes | None,
    ) -> LedgerGroup:
        name, manifest = self.producer(producer)
        shared = self.recipe(recipe)
        if guidance:
            shared = shared | {"guidance_scales": unpack_scales(guidance)}
        made = Recipe(**shared, prompt=prompt, seed=seed)
        if candidates:
            made = made.choose(unpack(candidates).tolist())
        return LedgerGroup(
            index=index,
            rank=self.rank,
            attempt=attempt,
            stand_in=stand_in,
            crc32=crc32,
            num_made=num_made,
            num_unsatisfied=num_unsatisfied,
            recipe=made,
            producer=name,
            manifest=manifest,
            concept=concept or "",
            first_step=self.first_step(row),
        )

    def _read_recipe(self, row: int) -> dict[str, Any]:
        ((text,),) = self.rows("SELECT recipe FROM recipes WHERE id = ?", (row,))
        recipe: dict[str, Any] = json.loads(text)
        return {name: tuple(value) if isinstance(value, list) else value for name, value in recipe.items()}

    def _read_producer(self, row: int) -> tuple[str, Manifest]:
        query = "SELECT name, manifests.manifest FROM producers JOIN manifests ON manifests.id = producers.manifest"
        ((name, manifest),) = self.rows(f"{query} WHERE producers.id = ?", (row,))
        return name, Manifest(**json.loads(manifest))


def open_ledger_files(run_dir: Path, stack: ExitStack) -> list[LedgerFile]:
    """The ledgers in a folder, by rank, but one that is only being begun."""
    files = []
    for path in find_ledgers(run_dir):
        with one_line(path, "read"):
            db = open_for_reading(path)
            stack.callback(db.close)
            if db.execute("SELECT 1 FROM sqlite_master").fetchone():
                files.append(LedgerFile(path, db))
    return sorted(files, key=lambda file: file.rank)
