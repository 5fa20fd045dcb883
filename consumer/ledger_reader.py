"""Reads the ledgers of a run: which groups came, what made them, and what each step used.

Of all ranks together, and also while the run goes on. What it gives are recipes, from which the images can be made
again. It imports no torch.
"""

import json
from collections.abc import Iterable, Iterator, Set
from contextlib import ExitStack
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.ledger_file import LedgerGroup, open_ledger_files
from penstock.consumer.ledger_schema import FILES
from penstock.consumer.schedule import images_of_use
from penstock.protocol.errors import RunError
from penstock.protocol.limits import MAX_INT
from penstock.protocol.tickets import normalise_prompt, prompt_id

_NAMED = 5
"""Runs that an error names."""


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


def _images(settings: dict[str, Any], group: LedgerGroup, echo: int) -> tuple[int, ...]:
    """Which of a group's images a use took."""
    num_images = group.recipe.num_images
    return tuple(images_of_use(settings["seed"], group.index, echo, num_images, settings["images_per_use"]))
