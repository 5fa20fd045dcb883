"""Reads the ledgers of a run: which groups came, what made them, and what each step used.

Of all ranks together, and also while the run goes on. What it gives are recipes, from which the images can be made
again. It imports no torch.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.ledger_schema import FILES, find_ledgers, one_line, open_for_reading, unpack, unpack_scales
from penstock.consumer.schedule import images_of_use
from penstock.protocol.errors import RunError
from penstock.protocol.limits import MAX_INT
from penstock.protocol.tickets import Manifest, Recipe, normalise_prompt, prompt_id

_GROUPS = """
SELECT groups.id, idx, text, seed, recipe, producer, concepts.name, crc32, attempt, stand_in, num_made, num_unsatisfied,
       candidates, guidance
FROM groups JOIN prompts ON prompts.id = groups.prompt LEFT JOIN concepts ON concepts.id = groups.concept
"""
_GROUPS_AT_ONCE = 500
"""Groups that are read at a time."""
_STEPS_AT_ONCE = 1000
"""Steps that are read at a time."""
_NAMED = 5
"""Runs that an error names."""


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


@dataclass(frozen=True, slots=True)
class LedgerUse:
    """A group in a step's batch."""

    group: LedgerGroup
    echo: int
    """Earlier uses of the group, in all lives."""
    images: tuple[int, ...]
    """Which of its images the step took."""


@dataclass(frozen=True, slots=True)
class LedgerQuarantined:
    """A group that no producer could make."""

    index: int
    rank: int
    step: int
    """The step before which it was given up."""
    stand_in: int
    """Which stand-in took its place."""
    prompt: str
    reason: str


class LedgerReader:
    """The ledgers of all ranks. A context manager.

    Args:
        run_dir: folder of the run.

    Raises RunError, here and in all that reads, where that is no run's folder or a ledger cannot be read.
    """

    def __init__(self, run_dir: Path) -> None:
        if not (run_dir / "run.json").is_file():
            inside = sorted(path.parent.name for path in run_dir.glob("*/run.json"))
            what = "it has no run.json" if run_dir.is_dir() else "it is not there"
            hint = f"; those in it are {', '.join(inside[:_NAMED])}" if inside else ""
            raise RunError(f"{run_dir} is not the folder of a run: {what}{hint}")
        self._run_dir = run_dir
        self._stack = ExitStack()
        with self._stack:
            self._files = open_ledger_files(run_dir, self._stack)
            if not self._files:
                raise RunError(f"{run_dir} has no ledger ({FILES}): no group has come yet, or an older penstock ran")
            self._stack = self._stack.pop_all()

    @property
    def indices(self) -> NDArray[np.int64]:
        """Global indices that have come, ascending: int64 [N]."""
        return np.unique(np.concatenate([file.indices() for file in self._files]))

    @property
    def num_groups(self) -> int:
        """How many these are."""
        return len(self.indices)

    @property
    def steps(self) -> range:
        """Steps that some rank has begun."""
        bounds = [bound for file in self._files if (bound := file.step_bounds())]
        return range(min(first for first, _ in bounds), max(last for _, last in bounds) + 1) if bounds else range(0)

    @property
    def lives(self) -> list[dict[str, Any]]:
        """What each life of each rank was told to do."""
        return [json.loads(text) for file in self._files for (text,) in file.rows("SELECT settings FROM lives")]

    @property
    def producers(self) -> list[str]:
        """Names of the producers that made a group."""
        return self._names("producers")

    @property
    def concepts(self) -> list[str]:
        """Names of the groups' concepts."""
        return self._names("concepts")

    def groups(
        self,
        *,
        step: int | None = None,
        prompt: str | None = None,
        producer: str | None = None,
        concept: str | None = None,
        index: int | None = None,
        among: Set[int] | None = None,
    ) -> Iterator[LedgerGroup]:
        """Groups in order of their global index, each once: as it first came, where a resume has asked for it again.

        Args:
            step: only those that this step used.
            prompt: only those of this prompt as `prompt_id` compares; where no such prompt was used, of all prompts
                in whose normalised text it stands.
            producer: only those that the producer of this name made.
            concept: only those of this concept.
            index: only that at this global index.
            among: only those at these global indices.

        Raises RunError where the ledger does not have the step.
        """
        wanted: list[tuple[str, Any]] = []
        if index is not None:
            if not 0 <= index <= MAX_INT:
                return  # SQLite has no such number
            wanted.append(("idx = ?", index))
        if concept is not None:
            wanted.append(("concept IN (SELECT id FROM concepts WHERE name = ?)", concept))
        if producer is not None:
            wanted.append(("producer IN (SELECT id FROM producers WHERE name = ?)", producer))
        if prompt is not None:
            wanted.append(self._prompt_condition(prompt))
        if step is not None:
            self._require_step(step)
        found = [file.groups(wanted, None if step is None else set(file.used(step)), among) for file in self._files]
        in_order = merge(*found, key=lambda group: (group.index, group.first_step))
        for _, same in groupby(in_order, key=lambda group: group.index):
            yield next(same)

    def uses(self, step: int) -> list[LedgerUse]:
        """What a step used, in the order of its batch, rank after rank.

        Raises RunError where the ledger does not have the step.
        """
        self._require_step(step)
        used = [(file, group) for file in self._files for group in file.groups_at(file.used(step))]
        earlier = self.steps_of((group.index for _, group in used), before=step)
        settings = {file: file.settings_at(step) for file, _ in used}
        return [
            LedgerUse(group, len(earlier[group.index]), _images(settings[file], group, len(earlier[group.index])))
            for file, group in used
        ]

    def steps_of(self, indices: Iterable[int], before: int | None = None) -> dict[int, list[int]]:
        """The steps, in order, that used each of these groups, in all lives and on all ranks.

        Args:
            indices: global indices.
            before: only steps before this one.
        """
        steps: dict[int, list[int]] = {index: [] for index in indices}
        wanted = np.fromiter(steps, np.int64, len(steps))
        stop = self.steps.stop if before is None else before
        for file in self._files:
            owned = file.indices()
            rows = np.flatnonzero(np.isin(owned, wanted)) + 1
            if not len(rows):
                continue
            index_of = np.full(len(owned) + 1, -1)
            index_of[rows] = owned[rows - 1]
            for step, used in file.used_between(file.first_step(int(rows[0])), stop):
                for index in index_of[used[used <= len(owned)]].tolist():
                    if index >= 0:
                        steps[index].append(step)
        return {index: sorted(found) for index, found in steps.items()}

    def use_counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Global indices that have come, ascending, and how many steps used each: int64 [N] both."""
        owned = [file.indices() for file in self._files]
        counts = [file.use_counts(len(of_file)) for file, of_file in zip(self._files, owned, strict=True)]
        indices, place = np.unique(np.concatenate(owned), return_inverse=True)
        uses = np.bincount(place, weights=np.concatenate(counts), minlength=len(indices))
        return indices, np.rint(uses).astype(np.int64)

    def quarantined(self) -> Iterator[LedgerQuarantined]:
        """Groups that no producer could make, rank after rank."""
        for file in self._files:
            for index, step, stand_in, prompt, reason in file.rows(
                "SELECT idx, step, stand_in, prompt, reason FROM quarantined ORDER BY id"
            ):
                yield LedgerQuarantined(index, file.rank, step, stand_in, prompt, reason)

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def _names(self, table: str) -> list[str]:
        return sorted({name for file in self._files for (name,) in file.rows(f"SELECT name FROM {table}")})

    def _require_step(self, step: int) -> None:
        steps = self.steps
        if step not in steps:
            told = f"steps {steps.start} to {steps.stop - 1}" if steps else "no step yet"
            raise RunError(f"step {step} is not in the ledger of {self._run_dir}, which has {told}")

    def _prompt_condition(self, prompt: str) -> tuple[str, Any]:
        """SQL that is true of the groups whose prompts are meant, and its value."""
        is_known = any(
            file.rows("SELECT 1 FROM prompts WHERE prompt_id = ? LIMIT 1", (prompt_id(prompt),)) for file in self._files
        )
        if is_known:
            return "prompt IN (SELECT id FROM prompts WHERE prompt_id = ?)", prompt_id(prompt)
        return "prompt IN (SELECT id FROM prompts WHERE instr(normalised(text), ?))", normalise_prompt(prompt)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


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


def read_steps(run_dir: Path) -> dict[int, tuple[int, ...]]:
    """The global indices that each step used, over all ranks, in ascending order; an index as often as it was used.

    Of any folder: where no ledger is yet, no step is. Raises RunError where one cannot be read.
    """
    used: dict[int, list[int]] = {}
    with ExitStack() as stack:
        for file in open_ledger_files(run_dir, stack):
            steps = list(file.used_between(0, MAX_INT))
            owned = file.indices()
            for step, rows in steps:
                used.setdefault(step, []).extend(owned[rows - 1].tolist())
    return {step: tuple(sorted(used[step])) for step in sorted(used)}


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


def _images(settings: dict[str, Any], group: LedgerGroup, echo: int) -> tuple[int, ...]:
    """Which of a group's images a use took."""
    num_images = group.recipe.num_images
    return tuple(images_of_use(settings["seed"], group.index, echo, num_images, settings["images_per_use"]))
