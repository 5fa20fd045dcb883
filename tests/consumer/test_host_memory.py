"""Freed memory is kept for the next group, up to a bound."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from penstock.consumer.host_memory import keep_freed_memory

if len(sys.argv) > 1:
    assert keep_freed_memory(int(sys.argv[1]))
np.full(3 << 20, 1, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    groups = [np.full(3 << 20, 1, np.uint8) for _ in range(4)]
    del groups
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(*argv: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, *argv], capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_memory_of_groups_that_left_is_used_again() -> None:
    """600 MB in 12 MB at a time: once kept, its 3,000 pages come from the kernel once, not fifty times."""
    assert _faults(str(1 << 30)) < 2 * 3072
    assert _faults(str(1 << 20)) > 5 * 3072, "beyond the bound it goes back"
