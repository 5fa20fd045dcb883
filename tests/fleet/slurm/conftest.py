"""One cluster for all tests of a module."""

import os
import shutil
from collections.abc import Iterator

import pytest

from benchmarks.harness import free_ports
from tests.fleet.slurm.cluster import NODES, PROGRAMS, Cluster

missing = [program for program in PROGRAMS if shutil.which(program) is None]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Running; the environment of this process leads to it."""
    if os.geteuid() != 0:
        pytest.skip("needs root: Slurm's daemons start jobs as their users")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (make fleet-test, or: apt-get install slurm-wlm munge)")
    with Cluster(free_ports(len(NODES) + 1)) as made, pytest.MonkeyPatch.context() as patch:
        for name, value in made.env.items():
            patch.setenv(name, value)
        yield made
    assert made.leftovers() == []
    assert not made.folder.exists()
