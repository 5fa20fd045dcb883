"""The ledger: what every step trained on, in less than 200 bytes a group where the pixels are 100 KB and more.

One SQLite file for each rank (`ledger_schema.py` has its tables and says why SQLite; docs/accountability.md tells how
to ask it). A life of the run writes what it was told to do; a group what its recipe adds to what others share, who
made it, and the checksum of what came; a step which groups it used, in the order of its batch. What came and the step
that follows it are one transaction: after a kill each step is in the file as a whole, or not at all.

A checkpoint notes where each table ends. The next life goes back to there, so that no step stands twice.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

from penstock.consumer.group import Group, Quarantined
from penstock.consumer.known_prompts import KnownPrompts
from penstock.consumer.ledger_schema import (
    PATIENCE_S,
    TABLES,
    Marks,
    one_line,
    open_for_writing,
    pack,
    pack_scales,
    read_marks,
    transaction,
)
from penstock.protocol.tickets import Manifest, Recipe, prompt_id

_PER_GROUP = ("prompt", "seed", "guidance_scales")
"""What of a recipe may be any group's own; the rest is shared by many."""
_SHARED = tuple(field.name for field in fields(Recipe) if field.name not in _PER_GROUP)
_shared = attrgetter(*_SHARED)

_MIN_GROUPS = 4096
_RESERVOIRS = 4
"""The rows of so many groups, or of so many reservoirs', are known by heart: those met last."""
_CHECKPOINT_PATIENCE_MS = 100
"""How long `sync` waits for readers before it leaves the log as it is."""


class Ledger:
    """Writes one rank's ledger, in one thread. A context manager.

    Args:
        path: opened to go on with; begun if it is new.
        life: which life of the run this is, and what it was told to do; plain values.
        capacity_groups: how many groups steps choose from.

    Raises RunError, here and in all that writes, where the file cannot be written or is no ledger.
    """

    def __init__(self, path: Path, life: Mapping[str, Any], capacity_groups: int = 1) -> None:
        self._path = path
        self._max_groups = max(_MIN_GROUPS, _RESERVOIRS * capacity_groups)
        self._prompts = KnownPrompts()
        with one_line(path, "written"):
            self._db = open_for_writing(path)
            try:
                self._marks = read_marks(self._db)
                self._known = self._read_known()
                self._rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in TABLES}
                self._life = self._append("lives", json.dumps(dict(life)))
                with transaction(self._db):
                    self._write()
            except BaseException:
                self._db.close()
                raise
        self._engines: dict[str, tuple[Manifest, int]] = {}
        """By a producer's name what it was when it was last met, and its row."""
        self._recipes: dict[Hashable, tuple[int, tuple[float, ...]]] = {}
        self._group_rows: OrderedDict[int, int] = OrderedDict()
        """By global index, those met last at the end."""
        self._quarantined: list[Quarantined] = []

    @property
    def marks(self) -> Marks:
        """Where each table ends after the last step: what a checkpoint keeps."""
        return dict(self._marks)

    def group(self, group: Group, concept: str = "") -> None:
        """A group has come, and may be used from the next step on.

        Args:
            group: as it came.
            concept: name of its prompt's class; empty where it has none.
        """
        ticket = group.ticket
        recipe = ticket.recipe
        shared, shared_scales = self._recipe(recipe)
        row = self._append(
            "groups",
            ticket.index,
            self._prompt(recipe.prompt),
            recipe.seed,
            shared,
            self._producer(group.producer, group.manifest),
            self._number("concepts", concept, lambda: (concept,)) if concept else None,
            group.crc32,
            ticket.attempt,
            ticket.stand_in,
            group.num_made,
            group.num_unsatisfied,
            pack(group.candidates) if group.candidates else None,
            None if recipe.guidance_scales == shared_scales else pack_scales(recipe.guidance_scales),
        )
        self._meet(ticket.index, row)

    def quarantined(self, record: Quarantined) -> None:
        """No producer could make a group; a stand-in takes its place."""
        self._quarantined.append(record)

    def step(self, step: int, indices: Sequence[int]) -> None:
        """Optimizer step `step` uses the groups at these global indices; what came so far is written with it.

        Raises ValueError where a group has not come.
        """
        for record in self._quarantined:
            ticket = record.ticket
            self._append(
                "quarantined", step, ticket.index, record.stand_in.stand_in, ticket.recipe.prompt, record.reason
            )
        self._quarantined.clear()
        last = self._marks["groups"]
        behind = [last - self._group_row(index) for index in indices]
        self._rows["steps"].append((step, self._life, last, pack(behind)))
        with one_line(self._path, "written"), transaction(self._db):
            self._write()
        self._marks["steps"] = step

    def sync(self) -> None:
        """Wait until all steps are on the disk."""
        with one_line(self._path, "written"):
            self._db.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_PATIENCE_MS}")
            (is_busy, *_) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            # A step has nothing else to fall back on; in a rollback journal's mode a reader does hold it up.
            self._db.execute(f"PRAGMA busy_timeout = {round(1000 * PATIENCE_S)}")
        if is_busy:
            # A reader holds on to the log, in which all of it stands.
            log = os.open(self._path.with_name(f"{self._path.name}-wal"), os.O_RDONLY)
            try:
                os.fsync(log)
            finally:
                os.close(log)

    def close(self) -> None:
        """Close the file. What came after the last step is not in it: nothing has used it."""
        with one_line(self._path, "closed"):
            self._db.close()

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _append(self, table: str, *values: Any) -> int:
        """A new row, written with the step. Returns its number."""
        self._marks[table] = number = max(self._marks[table], 0) + 1
        self._rows[table].append((number, *values))
        return number

    def _write(self) -> None:
        for table, rows in self._rows.items():
            if rows:
                holes = ", ".join("?" * len(TABLES[table]))
                self._db.executemany(f"INSERT INTO {table} VALUES ({holes})", rows)
                rows.clear()

    def _number(self, table: str, key: Hashable, row: Callable[[], tuple[Any, ...]]) -> int:
        """The number of the row of a table that stands for `key`; a new one where none is known."""
        known = self._known[table]
        if key not in known:
            known[key] = self._append(table, *row())
        return known[key]

    def _prompt(self, text: str) -> int:
        """The row of a prompt. One that was met long ago, before very many others, is written again."""
        row = self._prompts.get(text)
        if row is None:
            row = self._append("prompts", prompt_id(text), text)
            self._prompts.put(text, row)
        return row

    def _recipe(self, recipe: Recipe) -> tuple[int, tuple[float, ...]]:
        """The row of what the recipe shares with others, and the guidance scales that stand there: the first met."""
        key = _shared(recipe)
        if key not in self._recipes:
            scales = recipe.guidance_scales
            text = json.dumps(dict(zip(_SHARED, key, strict=True), guidance_scales=scales), sort_keys=True)
            self._recipes[key] = self._number("recipes", text, lambda: (text,)), scales
        return self._recipes[key]

    def _producer(self, name: str, manifest: Manifest) -> int:
        met = self._engines.get(name)
        if met is None or met[0] != manifest:
            text = json.dumps(asdict(manifest), sort_keys=True)
            made_by = self._number("manifests", text, lambda: (text,))
            met = manifest, self._number("producers", (name, made_by), lambda: (name, made_by))
            self._engines[name] = met
        return met[1]

    def _group_row(self, index: int) -> int:
        row = self._group_rows.get(index)
        if row is None:
            # From the end on: it came not long ago.
            query = "SELECT id FROM groups WHERE idx = ? ORDER BY id DESC LIMIT 1"
            (row,) = self._db.execute(query, (index,)).fetchone() or (None,)
        if row is None:
            raise ValueError(f"a step uses group {index}, which has not come")
        self._meet(index, row)
        return row

    def _meet(self, index: int, row: int) -> None:
        """Note the row of a group as the one met last; forget that of the one that was not met for longest."""
        self._group_rows[index] = row
        self._group_rows.move_to_end(index)
        if len(self._group_rows) > self._max_groups:
            self._group_rows.popitem(last=False)

    def _read_known(self) -> dict[str, dict[Hashable, int]]:
        """The rows that earlier lives have written, by what they stand for."""
        known: dict[str, dict[Hashable, int]] = {
            table: {key: number for number, key in self._db.execute(f"SELECT id, {column} FROM {table} ORDER BY id")}
            for table, column in (("recipes", "recipe"), ("manifests", "manifest"), ("concepts", "name"))
        }
        known["producers"] = {
            (name, manifest): number
            for number, name, manifest in self._db.execute("SELECT id, name, manifest FROM producers ORDER BY id")
        }
        for number, text in self._db.execute("SELECT id, text FROM prompts ORDER BY id"):
            self._prompts.put(text, number)
        return known

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
