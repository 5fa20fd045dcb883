"""Prints what pyproject.toml asks for, a line each, for a layer of an image that our own files do not change.

    python requirements.py pyproject.toml [EXTRA ...]

Runs while an image is built, before anything is installed: standard library only. `nvml` is of the extra `gpu` what an
image of NVIDIA's lacks: the others it has, in builds of its own.
"""

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

_NVML = "nvidia-ml-py"


def requirements(pyproject: Path, extras: Sequence[str]) -> list[str]:
    """The requirements of the project and of some of its extras, each once. Raises KeyError where there is no such."""
    project = tomllib.loads(pyproject.read_text())["project"]
    groups = project["optional-dependencies"]
    groups["nvml"] = [line for line in groups["gpu"] if line.startswith(_NVML)]
    lines = [*project["dependencies"], *(line for extra in extras for line in groups[extra])]
    return list(dict.fromkeys(lines))


if __name__ == "__main__":
    print(*requirements(Path(sys.argv[1]), sys.argv[2:]), sep="\n")
