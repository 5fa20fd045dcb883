"""The ledger: what every step trained on, in about 100 bytes a group where the pixels are 100 KB and more.

One append-only file of JSON lines for each rank. A `life` line begins each life of the run and holds what all its
recipes share; a `producer` line what made the groups that follow under its name; a `group` line what a ticket adds, so
that recipe and pixels can be made again, and whether they are real; a `step` line lists the groups that a step used; a
`quarantined` line says which group no producer could make, and which stand-in has its place.

A checkpoint notes how long each file is. The next life cuts the files back to that, so that no step stands twice.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from penstock.consumer.stream import Group, Quarantined
from penstock.protocol.errors import RunError
from penstock.protocol.tickets import Kind, Manifest

_FILES = "ledger-*.jsonl"


class Ledger:
    """Appends to one rank's ledger file.

    Args:
        path: opened for appending; begun if it is new.
        life: which life of the run this is, and what all its recipes share.
    """

    def __init__(self, path: Path, life: Mapping[str, Any]) -> None:
        self._manifests: dict[str, Manifest] = {}
        self._file = path.open("ab")
        self._append(life)

    def group(self, group: Group) -> None:
        """A group has come and may be used from now on."""
        ticket = group.ticket
        if self._manifests.get(group.producer) != group.manifest:
            self._manifests[group.producer] = group.manifest
            self._append({"producer": group.producer, "manifest": asdict(group.manifest)})
        line: dict[str, Any] = {
            "group": ticket.index,
            "prompt": ticket.recipe.prompt,
            "seed": ticket.recipe.seed,
            "attempt": ticket.attempt,
            "producer": group.producer,
        }
        if ticket.stand_in:
            line["stand_in"] = ticket.stand_in
        if group.manifest.kind is Kind.REAL:
            line["real"] = True
        self._append(line)

    def quarantined(self, record: Quarantined) -> None:
        """No producer could make a group; a stand-in takes its place."""
        self._append(
            {
                "quarantined": record.ticket.index,
                "stand_in": record.stand_in.stand_in,
                "prompt": record.ticket.recipe.prompt,
                "reason": record.reason,
            }
        )

    def step(self, step: int, indices: Sequence[int]) -> None:
        """Optimizer step `step` uses the groups at these global indices; what came so far leaves this process."""
        self._append({"step": step, "groups": list(indices)})
        self._file.flush()

    def sync(self) -> None:
        """Wait until all of it is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, line: Mapping[str, Any]) -> None:
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        self._file.write(text.encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def ledger_bytes(run_dir: Path) -> dict[str, int]:
    """How long each ledger file of a run is, by name."""
    return {path.name: path.stat().st_size for path in sorted(run_dir.glob(_FILES))}


def cut_ledgers(run_dir: Path, lengths: Mapping[str, int]) -> None:
    """Cut every ledger file back to its length at a checkpoint; one that is younger becomes empty.

    Raises RunError where a file is shorter than it was.
    """
    now = ledger_bytes(run_dir)
    for name in sorted(lengths.keys() | now.keys()):
        length = lengths.get(name, 0)
        if now.get(name, 0) < length:
            raise RunError(f"{run_dir / name} had {length} bytes at the checkpoint, it has {now.get(name, 0)}")
        os.truncate(run_dir / name, length)


def read_steps(run_dir: Path) -> dict[int, tuple[int, ...]]:
    """The global indices that each step used, over all ranks, in ascending order.

    An index stands as often as the step's lines name it. A last line that is not whole is left out: its writer was
    killed, or is still writing.
    """
    used: dict[int, list[int]] = {}
    for path in sorted(run_dir.glob(_FILES)):
        for text in path.read_bytes().split(b"\n")[:-1]:
            line = json.loads(text)
            if "step" in line:
                used.setdefault(line["step"], []).extend(line["groups"])
    return {step: tuple(sorted(used[step])) for step in sorted(used)}
