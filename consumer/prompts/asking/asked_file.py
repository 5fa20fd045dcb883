"""Prompts that were asked for, kept as a small table of tab-separated values: concept, caption.

A model asked again would say something else, so the file is what a run's later lives and other ranks read.
"""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from penstock.consumer.prompts.asking.answers import AskedPrompt
from penstock.protocol.errors import RunError


def write_asked(path: Path, prompts: Sequence[AskedPrompt]) -> None:
    """Write the file, whole or not at all. Raises RunError where it cannot be written."""
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, delimiter="\t", lineterminator="\n")
            table.writerow(["concept", "caption"])
            table.writerows([prompt.concept, prompt.text] for prompt in prompts)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error
