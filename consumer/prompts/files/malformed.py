"""What becomes of rows that are no captions: they are counted and named, and end the run or are left out."""

import logging
from typing import Literal

from penstock.protocol.errors import ConfigError

_log = logging.getLogger(__name__)

_NAMED = 5
"""Malformed rows that the log names one by one."""
_ENOUGH = 1000
"""Malformed rows in a file of no good ones, or fewer, after which it is not read to its end."""


class MalformedRows:
    """The malformed rows of a source.

    Args:
        policy: `stop` or `skip`.
    """

    def __init__(self, policy: Literal["stop", "skip"]) -> None:
        self._policy = policy
        self._first = ""
        self.num_rows = 0
        """Of all files."""

    def add(self, where: str, why: str) -> None:
        """Count a row that stands `where`."""
        self.num_rows += 1
        self._first = self._first or f"{where}: {why}"
        if self._policy == "skip" and self.num_rows <= _NAMED:
            _log.warning("left out: %s: %s", where, why)

    def check_file(self, path: str, num_malformed: int, num_good: int, first: str, *, final: bool) -> None:
        """Raises ConfigError where more than half of a file's rows are malformed: it is another kind of file."""
        if num_malformed > num_good and (final or num_malformed > _ENOUGH):
            raise ConfigError(
                f"prompts.source: {path}: {num_malformed} of {num_malformed + num_good} rows are malformed, the first "
                f"is {first}; is it a file of captions, and which are its columns?"
            )

    def check(self) -> None:
        """Say how many there are. Raises ConfigError where the policy is `stop` and there is one."""
        if not self.num_rows:
            return
        if self._policy == "stop":
            others = f" (and {self.num_rows - 1} more)" if self.num_rows > 1 else ""
            raise ConfigError(
                f"prompts.source: {self._first}{others}; mend it, or leave such rows out by --prompts.malformed skip"
            )
        _log.warning("%d malformed rows are left out of the prompts", self.num_rows)
