"""Ray: a remote generator streams groups into the object store, the driver maps them from there without a copy.

A local Ray of two cores and no dashboard. Its files lie in a folder of their own, which goes with it.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from baselines.sender import IN_FLIGHT, WAIT_S, Get, Images, Shape, ready_groups

# Read as ray is imported: no report to its makers.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray

_STORE_BYTES = 256 << 20
"""Twice what is under way at the largest size: a larger store has more pages that nobody has touched yet."""


@contextmanager
def groups(shape: Shape) -> Iterator[Get]:
    """See the package."""
    folder = tempfile.mkdtemp(prefix="penstock-ray-")
    try:
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
        )

        # Within the function, so that Ray sends it by value.
        @ray.remote(num_returns="streaming", _generator_backpressure_num_objects=IN_FLIGHT)
        def send(ready: list[ray.ObjectRef]) -> Iterator[Images]:
            arrays = ray.get(ready)
            for index in count():
                yield arrays[index % len(arrays)]

        refs = send.remote([ray.put(array) for array in ready_groups(shape)])
        yield lambda: ray.get(next(refs), timeout=WAIT_S)
        ray.cancel(refs, force=True)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
