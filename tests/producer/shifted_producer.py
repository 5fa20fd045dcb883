"""A paced producer with the clock of another machine: `python -m tests.producer.shifted_producer NS ADDRESS`."""

import sys
import time

AHEAD_NS = int(sys.argv[1])
_monotonic, _monotonic_ns = time.monotonic, time.monotonic_ns
time.monotonic = lambda: _monotonic() + AHEAD_NS / 1e9
time.monotonic_ns = lambda: _monotonic_ns() + AHEAD_NS

from penstock.config.process import configure_logging, ending_gently, run  # noqa: E402 - what they import sees the clock
from penstock.producer.config import ProduceConfig  # noqa: E402
from penstock.producer.paced_engine import PacedEngine  # noqa: E402
from penstock.producer.service import ProducerService  # noqa: E402


def main() -> int:
    configure_logging("shifted")
    config = ProduceConfig(
        connect=sys.argv[2],
        name=f"shifted-{AHEAD_NS}",
        backend="paced",
        paced_images_per_s=400.0,
        batch_images=8,
        batch_wait_s=0.0,
        trainer_timeout_s=30.0,
    )
    service = ProducerService(config, PacedEngine(config))
    with ending_gently(service.drain):
        service.run()
    return 0


if __name__ == "__main__":
    run(main)
