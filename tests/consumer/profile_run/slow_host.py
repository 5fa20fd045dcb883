"""A profiled rank whose host takes long for every batch: `python -m tests.consumer.profile_run.slow_host SECONDS …`."""

import sys
import time
from typing import Any

from penstock.config.process import run
from penstock.consumer import batch, feed, profiled


def main() -> int:
    """Profile as `penstock.consumer.profiled` does, with a copy into the batch that takes so many seconds."""
    seconds, argv = float(sys.argv[1]), sys.argv[2:]

    def slow(*args: Any, **kwargs: Any) -> batch.Batch:
        time.sleep(seconds)
        return batch.collate(*args, **kwargs)

    feed.collate = slow  # type: ignore[assignment]
    return profiled.main(argv)


if __name__ == "__main__":
    run(main)
