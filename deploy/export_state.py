"""How far an export has come, kept beside its shards, so that one that was stopped goes on."""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.protocol.errors import ConfigError


@dataclass(slots=True)
class ExportState:
    """Counts of what is whole on the disk."""

    path: Path
    settings: Mapping[str, object]
    num_shards: int = 0
    num_groups: int = 0
    num_samples: int = 0
    num_differing: int = 0
    """Groups of them whose checksum was not the ledger's."""
    finished: bool = False

    def shard_done(self, num_groups: int, num_samples: int, num_differing: int = 0, *, finished: bool = False) -> None:
        """One more shard of so many groups is whole. Raises OSError."""
        self.num_shards += 1 if num_groups else 0
        self.num_groups += num_groups
        self.num_samples += num_samples
        self.num_differing += num_differing
        self.finished = finished
        values = {name: value for name, value in dataclasses.asdict(self).items() if name != "path"}
        unfinished = self.path.with_name(self.path.name + ".tmp")
        unfinished.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        os.replace(unfinished, self.path)


def begin_or_go_on(path: Path, folder: Path, settings: Mapping[str, object]) -> ExportState:
    """The state of an export into `folder`, which is made where it is missing.

    Args:
        path: of the state.
        folder: of the data set.
        settings: what decides its files.

    Raises ConfigError where the folder holds anything but the beginning of this very export.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            if any(folder.iterdir()):
                raise ConfigError(f"--out {folder} is not empty; name a new folder, or empty it")
            state = ExportState(path, settings)
            state.shard_done(0, 0)
            return state
        values = json.loads(path.read_text(encoding="utf-8"))
        state = ExportState(path, **values)
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be used: {error.strerror or error}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is broken; name another --out, or empty that folder") from error
    if state.settings != dict(settings):
        other = next(name for name in settings if settings[name] != state.settings.get(name))
        raise ConfigError(
            f"--out {folder} holds an export with other settings ({other} {state.settings.get(other)}, "
            f"now {settings[other]}); name another folder, or empty it"
        )
    return state
