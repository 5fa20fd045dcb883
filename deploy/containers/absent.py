"""Prints the lines of a constraints file whose packages are not installed here.

    python absent.py constraints.txt

In an image whose PyTorch was built together with what surrounds it, our versions hold for what is added alone. Runs
while an image is built: standard library only.
"""

import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path


def absent(lines: Iterable[str], installed: Iterable[str]) -> list[str]:
    """Those of `NAME==VERSION` whose names are not among `installed`; comments are left out.

    Raises ValueError at a line that is neither.
    """
    here = {_normal(name) for name in installed}
    kept: list[str] = []
    for line in lines:
        text = line.partition("#")[0].strip()
        name, equals, _ = text.partition("==")
        if text and not equals:
            raise ValueError(f"not NAME==VERSION: {text}")
        if text and _normal(name) not in here:
            kept.append(text)
    return kept


def _normal(name: str) -> str:
    """Of PEP 503: as package indices compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    names = (found.metadata["Name"] for found in metadata.distributions())
    print(*absent(Path(sys.argv[1]).read_text().splitlines(), names), sep="\n")
