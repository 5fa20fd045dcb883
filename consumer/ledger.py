"""The ledger: what every step trained on, in about 100 bytes a group where the pixels are 100 KB and more.

One append-only file of JSON lines for each rank. The first line holds what all recipes share; a `producer` line
what made the groups that follow under its name; a `group` line what a ticket adds, so that recipe and pixels can be
made again; a `step` line lists the groups that a step used.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from penstock.consumer.stream import Group
from penstock.protocol.tickets import Manifest

_TAIL_BYTES = 1 << 20
"""More than any line: where the last whole one is looked for."""


class Ledger:
    """Appends to one rank's ledger file. A step that a resumed run repeats stands twice; the later line counts.

    Args:
        path: opened for appending; begun if it is new.
        common: what all recipes of the run share; the first line of a new file.
    """

    def __init__(self, path: Path, common: dict[str, Any]) -> None:
        self._manifests: dict[str, Manifest] = {}
        self._file = path.open("a+b")
        self._drop_torn_line()
        if self._file.seek(0, os.SEEK_END) == 0:
            self._append({"run": common})

    def group(self, group: Group) -> None:
        """A group has come and may be used from now on."""
        ticket = group.ticket
        if self._manifests.get(group.producer) != group.manifest:
            self._manifests[group.producer] = group.manifest
            self._append({"producer": group.producer, "manifest": asdict(group.manifest)})
        self._append(
            {
                "group": ticket.index,
                "prompt": ticket.recipe.prompt,
                "seed": ticket.recipe.seed,
                "attempt": ticket.attempt,
                "producer": group.producer,
            }
        )

    def step(self, step: int, indices: Sequence[int]) -> None:
        """Optimizer step `step` uses the groups at these global indices; what came so far leaves this process."""
        self._append({"step": step, "groups": list(indices)})
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, line: dict[str, Any]) -> None:
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        self._file.write(text.encode() + b"\n")

    def _drop_torn_line(self) -> None:
        """Cut off a last line that an earlier life was killed in."""
        size = self._file.seek(0, os.SEEK_END)
        start = self._file.seek(max(0, size - _TAIL_BYTES))
        self._file.truncate(start + self._file.read().rfind(b"\n") + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
